"""``flask --app app users …``: what operators and testers do on the command line."""

import itertools
import time

import click
from flask.cli import AppGroup

from user_service.errors import Unavailable
from user_service.web.example_users import example_users
from user_service.web.services import services

# A tenth of a second of work: the bar moves, and no statement comes near its time-out.
BATCH = 5_000
# As many as have come before today by example_users' calendar.
MOST = 10_000_000

users = AppGroup("users", help="Work on users.")


@users.command("seed")
@click.argument("number", type=click.IntRange(1, MOST))
@click.option("--seed", default=1, show_default=True, help="Another seed, other users.")
def seed_users(number: int, seed: int) -> None:
    """Add NUMBER users with realistic names, the same ones for the same seed.

    Who is there already is left as he is: repeat it to go on after an interruption.
    """
    began = time.perf_counter()
    try:
        added = _add(number, seed)
    except Unavailable as error:
        raise click.ClickException(
            f"{error}; what was added is kept, repeat it to go on"
        ) from error
    finally:
        services().pages.invalidate()
    seconds = time.perf_counter() - began
    click.echo(
        f"{added:,} users added in {seconds:.1f} s ({added / seconds:,.0f}/s), "
        f"{number - added:,} were there already; seed {seed}"
    )


def _add(number: int, seed: int) -> int:
    repository, added = services().users, 0
    examples = example_users(number, seed)
    with click.progressbar(length=number, label="adding users") as bar:
        while batch := list(itertools.islice(examples, BATCH)):
            added += services().retry_policy.call(repository.add_many, batch)
            bar.update(len(batch))
    repository.analyze()
    return added
