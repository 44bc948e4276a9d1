"""Concurrent clients that read and write a bounded set of users and write down every answer."""

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.faults.harness.credentials import HEADERS
from tests.faults.harness.operations import Kind, Operation, Outcome

URL = "/api/v1/users"
DEADLINE = 5.0  # REQUEST_TIMEOUT's default
OUTCOME_UNKNOWN = "urn:user-service:problem:outcome-unknown"
# Or the gateway's, which does not know what the service has done.
UNKNOWN = (OUTCOME_UNKNOWN, "about:blank")
IN_FLIGHT = "urn:user-service:problem:idempotency-key-in-flight"
JSON_TYPES = ("application/json", "application/problem+json")

# For a busy machine: so much later than the service's own deadline may an answer arrive here.
SLACK = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, or the lack of one, with its times."""

    started: float
    ended: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    complaint: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.status is None or self.status == 500:
            return Outcome.UNKNOWN
        if self.status == 503:
            unknown = isinstance(self.body, dict) and self.body.get("type") in UNKNOWN
            return Outcome.UNKNOWN if unknown else Outcome.FAILED
        return Outcome.OK if self.status < 400 else Outcome.REFUSED


class Client:
    """One HTTP client with a connection of its own, which it gives up now and then.

    Every answer is held against what goes for all: in time, JSON, and of the 5xx only 503 with
    Retry-After. What is wrong with it is its ``complaint``.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float = DEADLINE,
        number: int = 0,
        headers: Mapping[str, str] = HEADERS,
    ) -> None:
        self.url = url
        self.number = number
        self.deadline = deadline
        self._headers = headers
        self._http = self._connect()

    def _connect(self) -> httpx.Client:
        # The gateway's certificate is one that it has signed itself.
        timeout, headers = self.deadline + 5, dict(self._headers)
        return httpx.Client(base_url=self.url, timeout=timeout, verify=False, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def reconnect(self) -> None:
        """Leave the worker that serves this connection to chance once more."""
        self._http.close()
        self._http = self._connect()

    def ask(
        self,
        method: str,
        path: str,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        started = time.monotonic()
        try:
            response = self._http.request(method, path, json=json, headers=dict(headers or {}))
        except httpx.TransportError as error:
            self.reconnect()
            is_late = isinstance(error, httpx.TimeoutException)
            return Answer(started, time.monotonic(), complaint="no answer" if is_late else "")
        ended = time.monotonic()
        complaint = complaint_about(response)
        body = response.json() if response.content and not complaint else None
        if ended - started > self.deadline + SLACK:
            complaint = f"after {ended - started:.2f} s, {complaint}"
        if complaint:
            complaint = f"{method} {path} -> {response.status_code} {complaint}"
        return Answer(started, ended, response.status_code, response.headers, body, complaint)

    def create(self, name: str, value: str, key: str | None = None) -> Operation:
        """Create a user whose address is ``value``; with ``key``, ask until it is certain."""
        body = {"username": name, "email": value}
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = first = self.ask("POST", URL, body, headers)
        while key is not None and _is_open(answer) and answer.ended - first.started < 30:
            time.sleep(0.1)
            answer = self.ask("POST", URL, body, headers)
        return self._operation(Kind.CREATE, answer, name=name, value=value, started=first.started)

    def update(self, user_id: int, value: str, name: str | None = None) -> Operation:
        """Replace the user, or without a name change the address only."""
        if name is None:
            answer = self.ask("PATCH", f"{URL}/{user_id}", {"email": value})
        else:
            answer = self.ask("PUT", f"{URL}/{user_id}", {"username": name, "email": value})
        return self._operation(Kind.UPDATE, answer, user_id=user_id, value=value)

    def delete(self, user_id: int) -> Operation:
        answer = self.ask("DELETE", f"{URL}/{user_id}")
        return self._operation(Kind.DELETE, answer, user_id=user_id)

    def read(self, user_id: int) -> Operation:
        answer = self.ask("GET", f"{URL}/{user_id}")
        seen = answer.body["email"] if answer.outcome is Outcome.OK else None
        return self._operation(Kind.READ, answer, user_id=user_id, value=seen)

    def list_users(self) -> Operation:
        answer = self.ask("GET", f"{URL}?page=1&per_page=100")
        users = None
        if answer.outcome is Outcome.OK:
            users = {user["id"]: user["email"] for user in answer.body["users"]}
        return self._operation(Kind.LIST, answer, users=users)

    def _operation(
        self,
        kind: Kind,
        answer: Answer,
        *,
        started: float | None = None,
        user_id: int | None = None,
        **facts: Any,
    ) -> Operation:
        if kind is Kind.CREATE and answer.outcome is Outcome.OK:
            user_id = answer.body["id"]
        return Operation(
            kind,
            answer.outcome,
            answer.started if started is None else started,
            answer.ended,
            status=answer.status,
            user_id=user_id,
            cache=answer.headers.get("X-Cache", ""),
            client=self.number,
            complaint=answer.complaint,
            **facts,
        )


def complaint_about(response: httpx.Response) -> str:
    """Return what breaks the contract of every answer, or nothing."""
    if response.status_code == 204:
        return "" if not response.content else "204 with a body"
    if response.headers.get("Content-Type") not in JSON_TYPES:
        return f"is not JSON: {response.text[:200]}"
    if response.status_code >= 500 and response.status_code != 503:
        return f"is a fault: {response.text[:200]}"
    if response.status_code == 503 and not response.headers.get("Retry-After", "").isdigit():
        return "has no Retry-After"
    return ""


def _is_open(answer: Answer) -> bool:
    """Tell whether the same request with the same key should be sent again."""
    if answer.outcome in (Outcome.UNKNOWN, Outcome.FAILED):
        return True
    return answer.status == 409 and answer.body.get("type") == IN_FLIGHT


@dataclass(frozen=True, slots=True)
class Mix:
    """How many clients ask how often for what (weights), and how long they pause in between."""

    clients: int = 8
    create: int = 20
    update: int = 20
    delete: int = 12
    read: int = 28
    list: int = 20
    pause: float = 0.02
    names: int = 30
    keyed: float = 0.0  # this part of the creates carries an Idempotency-Key
    reconnect: float = 0.03
    seed: int = 0


READS = Mix(create=0, update=0, delete=0)


class Load:
    """The clients of a mix at work during a ``with`` block; ``operations`` is their history."""

    def __init__(self, url: str, *, mix: Mix, deadline: float = DEADLINE) -> None:
        self.operations: list[Operation] = []
        self.deadline = deadline
        self.mix = mix
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._known: deque[tuple[int, str]] = deque(maxlen=mix.names)  # made lately: id, name
        self._values = iter(range(10**9))
        self._threads = [
            threading.Thread(target=self._work, args=(Client(url, deadline=deadline, number=n),))
            for n in range(mix.clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, client: Client) -> None:
        chance = random.Random(f"{self.mix.seed}/{client.number}")
        try:
            with client:
                while not self._stop.is_set():
                    self.operations.append(self._act(client, chance))
                    if chance.random() < self.mix.reconnect:
                        client.reconnect()
                    self._stop.wait(chance.uniform(0, 2 * self.mix.pause))
        except BaseException as error:  # noqa: BLE001 -- raised in the test's thread
            self._errors.append(error)

    def _act(self, client: Client, chance: random.Random) -> Operation:
        mix = self.mix
        kinds = (Kind.CREATE, Kind.UPDATE, Kind.DELETE, Kind.READ, Kind.LIST)
        weights = (mix.create, mix.update, mix.delete, mix.read, mix.list)
        (kind,) = chance.choices(kinds, weights)
        if kind is Kind.LIST or (kind is Kind.READ and not self._known):
            return client.list_users()
        if kind is Kind.CREATE or not self._known:
            return self._create(client, chance)
        user_id, name = chance.choice(list(self._known))  # most of which are still there
        if kind is Kind.READ:
            return client.read(user_id)
        if kind is Kind.DELETE:
            return client.delete(user_id)
        return client.update(user_id, self._value(client), name if chance.random() < 0.5 else None)

    def _create(self, client: Client, chance: random.Random) -> Operation:
        name = f"user{chance.randrange(self.mix.names):02}"
        key = uuid.uuid4().hex if chance.random() < self.mix.keyed else None
        done = client.create(name, self._value(client), key)
        if done.user_id is not None:
            self._known.append((done.user_id, name))
        return done

    def _value(self, client: Client) -> str:
        return f"v{next(self._values)}.c{client.number}@example.com"
