"""A stateful property: whatever is done in whatever order, the service answers as a dict would.

The cache is on, and two applications share it, so every answer may come from the page cache of
either and must still be what the model says.
"""

import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from flask import Flask
from hypothesis import note, stateful
from psycopg2.extensions import cursor

from tests.integration.users import URL
from tests.responses import Serve, fields_of, json_of
from user_service.domain.names import canonical_username
from user_service.web.requests.validation import BODY_TYPES
from user_service.web.responses.reply import JSON
from user_service.web.services import services_of

# Few names, in several spellings each, so that conflicts and reuse happen all the time.
NAMES = st.sampled_from(["ada", "Ada", "ａｄａ", "grace", "GRACE", "straße", "STRASSE", "émile"])
LOCAL_PARTS = st.sampled_from(["ada", "ADA", "grace", "emile"])
# How many versions a writer is behind; None does not say what it has read.
LAGS = st.sampled_from([None, 0, 1])
# Few pages, so that most lists are of a page that is in the cache.
PAGES = st.sampled_from([(1, 50), (1, 2), (2, 2)])


class UserStories(stateful.RuleBasedStateMachine):
    """Random creates, reads, lists, updates and deletes against a dict as the model."""

    apps: tuple[Flask, Flask]
    admin: cursor

    ids = stateful.Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.clients = [app.test_client() for app in self.apps]
        self.model: dict[int, dict[str, Any]] = {}
        self.tags: dict[int, list[str]] = {}

    @stateful.initialize()
    def begin_with_nobody(self) -> None:
        self.admin.execute("TRUNCATE users RESTART IDENTITY")
        services_of(self.apps[0]).pages.invalidate()

    @stateful.rule(target=ids, name=NAMES, local_part=LOCAL_PARTS, client=st.integers(0, 1))
    def create(self, name: str, local_part: str, client: int) -> Any:
        body = {"username": name, "email": f"{local_part}@example.com"}
        answer = self.clients[client].post(URL, json=body)
        if conflicts := self._conflicts(body):
            assert answer.status_code == 409
            assert fields_of(answer) <= conflicts
            return stateful.multiple()
        assert answer.status_code == 201
        user = json_of(answer)
        assert user["id"] not in self.model
        assert body.items() <= user.items()
        self.model[user["id"]] = user
        self.tags[user["id"]] = ['"0"', answer.headers["ETag"]]
        return user["id"]

    @stateful.rule(
        user_id=ids,
        change=st.fixed_dictionaries({}, optional={"username": NAMES, "email": LOCAL_PARTS}),
        lag=LAGS,
        patch_type=st.sampled_from(BODY_TYPES["PATCH"]),
        client=st.integers(0, 1),
    )
    def change(
        self, user_id: int, change: dict[str, str], lag: int | None, patch_type: str, client: int
    ) -> None:
        if "email" in change:
            change = {**change, "email": f"{change['email']}@example.com"}
        put = change.keys() == {"username", "email"} and patch_type == JSON
        answer = self.clients[client].open(
            f"{URL}/{user_id}",
            method="PUT" if put else "PATCH",
            data=json.dumps(change),
            content_type=patch_type,
            headers=self._if_match(user_id, lag),
        )
        if lag:
            assert answer.status_code == 412
            assert json_of(answer)["user"] == self.model[user_id]
            return
        if conflicts := self._conflicts(change, besides=user_id):
            assert answer.status_code == 409
            assert fields_of(answer) <= conflicts
            return
        assert answer.status_code == 200
        user = json_of(answer)
        assert user == {**self.model[user_id], **change, "updated_at": user["updated_at"]}
        if change.items() <= self.model[user_id].items():
            assert user == self.model[user_id]
            assert answer.headers["ETag"] == self.tags[user_id][-1]
            return
        assert user["updated_at"] > self.model[user_id]["updated_at"]
        self.model[user_id] = user
        self.tags[user_id].append(answer.headers["ETag"])

    @stateful.rule(user_id=stateful.consumes(ids), client=st.integers(0, 1))
    def delete(self, user_id: int, client: int) -> None:
        stale = self._if_match(user_id, 1)
        refused = self.clients[client].delete(f"{URL}/{user_id}", headers=stale)
        assert json_of(refused)["user"] == self.model.pop(user_id)
        assert self.clients[client].delete(f"{URL}/{user_id}").status_code == 204
        assert self.clients[client].delete(f"{URL}/{user_id}").status_code == 404
        assert self.clients[client].get(f"{URL}/{user_id}").status_code == 404

    @stateful.rule(user_id=ids, client=st.integers(0, 1))
    def read(self, user_id: int, client: int) -> None:
        answer = self.clients[client].get(f"{URL}/{user_id}")
        assert json_of(answer) == self.model[user_id]
        assert answer.headers["ETag"] == self.tags[user_id][-1]
        unless = {"If-None-Match": answer.headers["ETag"]}
        assert self.clients[client].get(f"{URL}/{user_id}", headers=unless).status_code == 304

    @stateful.rule(page_and_size=PAGES, client=st.integers(0, 1))
    def list(self, page_and_size: tuple[int, int], client: int) -> None:
        self._check_page(*page_and_size, client)

    @stateful.invariant()
    def first_page_is_never_stale(self) -> None:
        """Read after every step, it is in the cache before the next one."""
        self._check_page(1, 50, client=0)

    @stateful.invariant()
    def no_connection_is_kept(self) -> None:
        for app in self.apps:
            assert services_of(app).database.pool.lent == 0

    def _check_page(self, page: int, size: int, client: int) -> None:
        answer = self.clients[client].get(f"{URL}?page={page}&per_page={size}")
        note(answer.headers["X-Cache"])
        users = [self.model[user_id] for user_id in sorted(self.model)]
        assert json_of(answer)["users"] == users[(page - 1) * size : page * size]
        assert json_of(answer)["pagination"]["total"] == len(users)

    def _if_match(self, user_id: int, lag: int | None) -> dict[str, str]:
        return {} if lag is None else {"If-Match": self.tags[user_id][-1 - lag]}

    def _conflicts(self, body: dict[str, str], besides: int | None = None) -> set[str]:
        others = [user for user_id, user in self.model.items() if user_id != besides]
        return {
            field
            for field, text in body.items()
            if any(canonical_username(text) == canonical_username(user[field]) for user in others)
        }


@pytest.mark.timeout(300)
def test_service_answers_as_a_dict_would(app: Flask, serving: Serve, admin: cursor) -> None:
    UserStories.apps, UserStories.admin = (app, serving().application), admin
    budget = hypothesis.settings(max_examples=60, stateful_step_count=40, deadline=None)
    stateful.run_state_machine_as_test(UserStories, settings=budget)
