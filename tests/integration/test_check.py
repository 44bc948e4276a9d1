"""`flask users check`: names that were stored before a rule was there."""

from flask import Flask

from user_service.web.services import Services


def test_lists_names_that_would_be_refused_now_without_showing_them(
    app: Flask, services: Services
) -> None:
    services.users.create({"username": "ada", "email": "ada@example.com"})
    with services.database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO users (username, username_canonical, email, email_canonical) VALUES"
            " ('\u2800\u2800\u2800', 'blank', 'a\u2024b@example.com', 'a.b@example.com')"
        )
    result = app.test_cli_runner().invoke(args=["users", "check"])
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            "user 2: username must contain a visible character",
            "user 2: email must be an email address, like ada@example.com",
            "2 names would be refused",
        ],
    )
