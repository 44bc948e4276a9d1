"""`flask users seed`: many users, the same for the same seed, counted and seen at once."""

import itertools

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from tests.responses import json_of
from user_service.domain.names import (
    canonical_email,
    canonical_username,
    valid_email,
    valid_username,
)
from user_service.errors import Unavailable
from user_service.web.example_users import FAMILY, GIVEN, example_users
from user_service.web.services import Services

URL = "/api/v1/users"


def seed(app: Flask, *arguments: str) -> str:
    result = app.test_cli_runner().invoke(args=["users", "seed", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_adds_users_who_are_counted_and_seen_at_once(app: Flask, client: FlaskClient) -> None:
    assert json_of(client.get(URL))["pagination"]["total"] == 0
    assert "12,000 users added" in seed(app, "12000")
    page = json_of(client.get(URL))
    assert page["pagination"]["total"] == 12_000
    first = next(example_users(1, 1))
    assert (page["users"][0]["username"], page["users"][0]["email"]) == (first[0], first[2])


def test_again_adds_nobody_and_more_or_another_seed_goes_on(
    app: Flask, client: FlaskClient
) -> None:
    seed(app, "300")
    assert "0 users added" in (again := seed(app, "300"))
    assert "300 existed already" in again
    assert "200 users added" in seed(app, "500")
    assert "300 users added" in seed(app, "300", "--seed", "2")
    assert json_of(client.get(URL))["pagination"]["total"] == 800


def test_interruption_is_one_line_and_what_was_added_is_seen(
    app: Flask, client: FlaskClient, services: Services, mocker: MockerFixture
) -> None:
    client.get(URL)
    add, calls = services.users.add_many, itertools.count(1)

    def fail_the_second_time(batch: object) -> int:
        if next(calls) == 2:
            raise Unavailable("the database is away")
        return add(batch)  # type: ignore[arg-type]

    mocker.patch.object(services.users, "add_many", side_effect=fail_the_second_time)
    result = app.test_cli_runner().invoke(args=["users", "seed", "12000"])
    assert result.exit_code == 1
    assert "Error: the database is away; the users added so far are kept" in result.output
    assert json_of(client.get(URL))["pagination"]["total"] == 5_000


@pytest.mark.parametrize("arguments", [[], ["0"], ["-1"], ["many"], ["10000001"]])
def test_refuses_what_is_no_number(app: Flask, arguments: list[str]) -> None:
    assert app.test_cli_runner().invoke(args=["users", "seed", *arguments]).exit_code == 2


def test_examples_are_the_same_on_every_machine() -> None:
    names = [(user.username, str(user.updated_at)) for user in example_users(2, 1)]
    assert names == [
        ("kenji.tanaka413", "2020-01-03 18:48:03.400000+00:00"),
        ("fatima.andersen413", "2020-01-08 05:21:43.700000+00:00"),
    ]


def test_examples_are_different_valid_and_canonical() -> None:
    assert len(set(GIVEN)) == len(GIVEN)
    assert len(set(FAMILY)) == len(FAMILY)
    users = list(example_users(50_000, 7))
    assert len({user.username for user in users}) == len({user.email for user in users}) == 50_000
    for user in users[::500]:
        assert valid_username(user.username) == user.username
        assert valid_email(user.email) == user.email
        assert canonical_username(user.username) == user.username_canonical
        assert canonical_email(user.email) == user.email_canonical
        assert user.created_at <= user.updated_at
    assert list(example_users(10, 7)) == users[:10]
