"""`flask users`: seed, recount and check."""

import itertools

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pytest_mock import MockerFixture

from tests.integration.queries import value
from tests.integration.users import URL, create, page, total
from user_service.domain import names
from user_service.errors import Unavailable
from user_service.resilience import deadline
from user_service.web.example_users import example_users
from user_service.web.services import Services


def run(app: Flask, *arguments: str) -> str:
    result = app.test_cli_runner().invoke(args=["users", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_seed_adds_users_who_are_counted_and_seen_at_once(app: Flask, client: FlaskClient) -> None:
    assert total(client) == 0
    assert "6,000 users added" in run(app, "seed", "6000")
    assert total(client) == 6000
    first = next(example_users(1, 1))
    user = page(client)["users"][0]
    assert (user["username"], user["email"]) == (first.username, first.email)
    assert "0 users added" in (again := run(app, "seed", "300"))
    assert "300 existed already" in again
    assert "200 users added" in run(app, "seed", "6200")
    assert "300 users added" in run(app, "seed", "300", "--seed", "2")
    assert total(client) == 6500


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
    assert total(client) == 5000


@pytest.mark.parametrize("arguments", [[], ["0"], ["-1"], ["many"], ["10000001"]])
def test_refuses_what_is_no_number(app: Flask, arguments: list[str]) -> None:
    assert app.test_cli_runner().invoke(args=["users", "seed", *arguments]).exit_code == 2


def test_examples_are_the_same_on_every_machine() -> None:
    made = [(user.username, str(user.updated_at)) for user in example_users(2, 1)]
    assert made == [
        ("kenji.tanaka413", "2020-01-03 18:48:03.400000+00:00"),
        ("fatima.andersen413", "2020-01-08 05:21:43.700000+00:00"),
    ]


def test_examples_are_different_valid_and_canonical() -> None:
    users = list(example_users(50_000, 7))
    assert len({user.username for user in users}) == len({user.email for user in users}) == 50_000
    for user in users[::500]:
        assert names.valid_username(user.username) == user.username
        assert names.valid_email(user.email) == user.email
        assert names.canonical_username(user.username) == user.username_canonical
        assert names.canonical_email(user.email) == user.email_canonical
        assert user.created_at <= user.updated_at
    assert list(example_users(10, 7)) == users[:10]


def test_recount_corrects_the_total_of_pages(
    app: Flask, client: FlaskClient, admin: cursor
) -> None:
    create(client, "ada")
    admin.execute("DELETE FROM users_count WHERE slot > 5; UPDATE users_count SET number = 7")
    assert total(client) == 42
    assert run(app, "recount") == "1 users\n"
    assert total(client) == 1
    assert value(admin, "SELECT count(*) FROM users_count") == 64


def test_recount_does_not_make_writes_wait_for_another_transaction(
    app: Flask, client: FlaskClient, admin: cursor
) -> None:
    create(client, "ada")
    admin.execute("BEGIN; UPDATE users SET email = email")
    with deadline.within(10):
        result = app.test_cli_runner().invoke(args=["users", "recount"])
    assert result.output == "Error: database cannot serve this now (55P03)\n"
    create(client, "grace")
    admin.execute("COMMIT")
    assert run(app, "recount") == "2 users\n"


def test_check_lists_names_to_be_refused(app: Flask, client: FlaskClient, admin: cursor) -> None:
    create(client, "ada")
    admin.execute(
        "INSERT INTO users (username, username_canonical, email, email_canonical) VALUES"
        " ('\u2800\u2800\u2800', 'blank', 'a\u2024b@example.com', 'a.b@example.com')"
    )
    assert run(app, "check").splitlines() == [
        "user 2: username must contain a visible character",
        "user 2: email must be an email address, like ada@example.com",
        "2 names would be refused",
    ]
