"""The command line of operators: ``flask --app app users …`` and ``flask --app app migrate``."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import current_app
from flask.cli import AppGroup

from user_service.database.failures import explained
from user_service.database.migrate import migrate
from user_service.domain.names import valid_email, valid_username
from user_service.domain.positions import Position
from user_service.domain.user import User
from user_service.errors import Unavailable
from user_service.web.example_users import example_users
from user_service.web.services import Services, services_of

# Small enough for a moving progress bar and for the statement time-out.
BATCH = 5_000
# example_users dates one user every 20 s since 2020; more would be dated in the future.
MAX_USERS = 10_000_000

users = AppGroup("users", help="Work on users.")


@contextmanager
def reported() -> Iterator[None]:
    """End the command with one line if the database does not serve it, or its URL is unsuitable."""
    try:
        with explained():
            yield
    except (Unavailable, ValueError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error


@users.command("seed")
@click.argument("number", type=click.IntRange(1, MAX_USERS))
@click.option("--seed", default=1, show_default=True, help="Seed of the random names.")
@reported()
def seed_users(number: int, seed: int) -> None:
    """Add NUMBER users with realistic names; a seed always makes the same users.

    Users that exist are left unchanged, so the command can be repeated after an interruption.
    """
    services, began = services_of(current_app), time.perf_counter()
    try:
        added = _add(services, number, seed)
    except Unavailable as error:
        raise Unavailable(
            f"{error}; the users added so far are kept, repeat the command to add the rest"
        ) from error
    finally:
        services.pages.invalidate()
    seconds = time.perf_counter() - began
    click.echo(
        f"{added:,} users added in {seconds:.1f} s ({added / seconds:,.0f}/s), "
        f"{number - added:,} existed already; seed {seed}"
    )


@users.command("recount")
@reported()
def recount_users() -> None:
    """Count the users again and put the cached pages out of date, after a restore."""
    services = services_of(current_app)
    number = services.users.recount()
    services.pages.invalidate()
    click.echo(f"{number:,} users")


@users.command("check")
@reported()
def check_users() -> None:
    """List the stored names that this release would refuse. Their users stay as they are."""
    number = 0
    for user in _all():
        for member, rule in (("username", valid_username), ("email", valid_email)):
            try:
                rule(getattr(user, member))
            except ValueError as error:
                number += 1
                click.echo(f"user {user.id}: {member} {error}")
    click.echo(f"{number:,} names would be refused")


def migrate_command(dsn: str, owner_dsn: str | None) -> click.Command:
    """Return the command that migrates the database at ``dsn``, as its owner if there is one."""

    @click.command("migrate")
    @reported()
    def apply() -> None:
        """Apply pending migrations."""
        applied = migrate(dsn, owner_dsn=owner_dsn)
        click.echo("\n".join(applied) or "nothing to migrate")

    return apply


def _all() -> Iterator[User]:
    position: Position | int | None = 0
    while position is not None:
        page = services_of(current_app).users.page(position, BATCH, count="none")
        yield from page.users
        position = page.next


def _add(services: Services, number: int, seed: int) -> int:
    examples, added = example_users(number, seed), 0
    with click.progressbar(length=number, label="adding users") as bar:
        while batch := list(itertools.islice(examples, BATCH)):
            added += services.retry_policy.call(services.users.add_many, batch)
            bar.update(len(batch))
    return added
