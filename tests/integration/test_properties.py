"""A stateful property: whatever is done in whatever order, the service answers as a dict would.

The cache is on, and two applications share it, so every answer may come from the page cache of
either and must still be what the model says.
"""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from flask import Flask
from hypothesis import note, stateful
from psycopg2.extensions import cursor
from werkzeug.test import TestResponse

from tests.integration.users import URL
from tests.responses import Serve, fields_of, json_of
from user_service.domain.names import canonical_username
from user_service.web.services import services_of

# Few names, in several spellings each, so that conflicts and reuse happen all the time.
NAMES = st.sampled_from(["ada", "Ada", "ａｄａ", "grace", "GRACE", "straße", "STRASSE", "émile"])
EMAILS = st.sampled_from([f"{name}@example.com" for name in ("ada", "ADA", "grace", "emile")])
# Few pages, so that most lists are of a page that is in the cache.
PAGES = st.sampled_from([(1, 50), (1, 2), (2, 2)])
CLIENTS = st.integers(0, 1)


class UserStories(stateful.RuleBasedStateMachine):
    """Random creates, reads, lists, updates and deletes against a dict as the model."""

    apps: tuple[Flask, Flask]
    admin: cursor

    ids = stateful.Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.clients = [app.test_client() for app in self.apps]
        self.model: dict[int, dict[str, Any]] = {}

    @stateful.initialize()
    def begin_with_nobody(self) -> None:
        self.admin.execute("TRUNCATE users RESTART IDENTITY")
        services_of(self.apps[0]).pages.invalidate()

    @stateful.rule(target=ids, username=NAMES, email=EMAILS, client=CLIENTS)
    def create(self, username: str, email: str, client: int) -> Any:
        body = {"username": username, "email": email}
        answer = self.clients[client].post(URL, json=body)
        if self._is_refused(answer, body):
            return stateful.multiple()
        user = json_of(answer)
        assert user["id"] not in self.model
        assert body.items() <= user.items()
        self.model[user["id"]] = user
        return user["id"]

    @stateful.rule(
        user_id=ids,
        change=st.fixed_dictionaries({}, optional={"username": NAMES, "email": EMAILS}),
        client=CLIENTS,
    )
    def change(self, user_id: int, change: dict[str, str], client: int) -> None:
        method = "PUT" if len(change) == 2 else "PATCH"
        answer = self.clients[client].open(f"{URL}/{user_id}", method=method, json=change)
        if self._is_refused(answer, change, besides=user_id):
            return
        before, user = self.model[user_id], json_of(answer)
        assert user == {**before, **change, "updated_at": user["updated_at"]}
        assert (user["updated_at"] > before["updated_at"]) == (not change.items() <= before.items())
        self.model[user_id] = user

    @stateful.rule(user_id=stateful.consumes(ids), client=CLIENTS)
    def delete(self, user_id: int, client: int) -> None:
        del self.model[user_id]
        path = f"{URL}/{user_id}"
        statuses = [self.clients[client].delete(path).status_code for _ in range(2)]
        assert (statuses, self.clients[client].get(path).status_code) == ([204, 404], 404)

    @stateful.rule(user_id=ids, client=CLIENTS)
    def read(self, user_id: int, client: int) -> None:
        assert json_of(self.clients[client].get(f"{URL}/{user_id}")) == self.model[user_id]

    @stateful.rule(page_and_size=PAGES, client=CLIENTS)
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

    def _is_refused(
        self, answer: TestResponse, body: dict[str, str], besides: int | None = None
    ) -> bool:
        """Tell whether ``body`` has the name of another user; check that the answer says so."""
        others = [user for user_id, user in self.model.items() if user_id != besides]
        conflicts = {
            field
            for field, text in body.items()
            if any(canonical_username(text) == canonical_username(user[field]) for user in others)
        }
        if conflicts:
            assert answer.status_code == 409
            assert fields_of(answer) <= conflicts
            return True
        assert answer.status_code in (200, 201)
        return False


@pytest.mark.timeout(300)
def test_service_answers_as_a_dict_would(app: Flask, serving: Serve, admin: cursor) -> None:
    UserStories.apps, UserStories.admin = (app, serving().application), admin
    budget = hypothesis.settings(max_examples=60, stateful_step_count=40, deadline=None)
    stateful.run_state_machine_as_test(UserStories, settings=budget)
