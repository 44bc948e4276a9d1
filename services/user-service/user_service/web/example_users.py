"""Invented users with realistic names, reproducible by a seed, for tests with large tables."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from user_service.database.user_repository import NewUser

_GIVEN = (
    "ada adele agnes aisha alan albert alice amara amir ana anders anita anna antonio arjun "
    "astrid barbara beatriz ben bianca bjorn carla carlos chen chloe clara daniel david diego "
    "dora edith elena eli emil emma erik esther eva fatima felix fiona frida gabriel george "
    "grace hana hans hugo ida ingrid isaac ivan jamal jane jin john jonas julia kai karen karim "
    "katherine kenji lara lea leila leo lin lucia luis magnus maria marie marta mei miguel mila "
    "mohamed nadia nina noah nora olga omar oscar paul priya radia rosa samir sara sofia tariq "
    "tim vera yuki yusuf zoe"
)
_FAMILY = (
    "abbott abe acosta ahmed allen almeida andersen baker barbosa bauer becker bell berg "
    "bianchi brown burton campos carter castro chen clarke cohen conti costa cruz dahl davies "
    "diaz dubois duran edwards eriksson evans fischer flores fontaine garcia gomez greco gupta "
    "haas hall hansen hassan hill hopper huang hughes ibrahim ito jackson jansen johnson jones "
    "kato kaur keller khan kim klein kowalski kumar lang larsen lee lopez lovelace martin mbeki "
    "meyer mori moreau moser murphy nakamura nguyen novak okafor olsen ortiz park patel perez "
    "petrov popov ramos reyes rossi santos sato schmidt silva singh smith suzuki tanaka turing "
    "vega wagner wang weber yilmaz zhang"
)
GIVEN, FAMILY = _GIVEN.split(), _FAMILY.split()
DOMAINS = ("example.com", "example.org", "example.net")  # reserved for examples (RFC 2606)
# The first user was created then, and another one after each interval.
FIRST_CREATED = datetime(2020, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(seconds=20)


def example_users(number: int, seed: int) -> Iterator[NewUser]:
    """Yield ``number`` different users. A larger number only adds users at the end."""
    chance = random.Random(seed)  # noqa: S311 -- examples, not secrets
    pairs = [f"{given}.{family}" for given in GIVEN for family in FAMILY]
    chance.shuffle(pairs)
    first_round = chance.randrange(1, 5000)
    for n in range(number):
        completed, index = divmod(n, len(pairs))
        # Names in lower case and ASCII are their own canonical form.
        username = f"{pairs[index]}{first_round + completed}"
        email = f"{username}@{DOMAINS[index % len(DOMAINS)]}"
        created = FIRST_CREATED + n * INTERVAL
        changed = created + chance.random() * INTERVAL * 100_000
        yield NewUser(username, username, email, email, created, changed)
