"""Made-up users with realistic names, to try the service at size: for a seed always the same."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from user_service.database.user_repository import NewUser

GIVEN = (  # noqa: SIM905 -- words, not quotes
    "ada adele agnes aisha alan albert alice amara amir ana anders anita anna antonio arjun "
    "astrid barbara beatriz ben bianca bjorn carla carlos chen chloe clara daniel david diego "
    "dora edith elena eli emil emma erik esther eva fatima felix fiona frida gabriel george "
    "grace hana hans hugo ida ingrid isaac ivan jamal jane jin john jonas julia kai karen karim "
    "katherine kenji lara lea leila leo lin lucia luis magnus maria marie marta mei miguel mila "
    "mohamed nadia nina noah nora olga omar oscar paul priya radia rosa samir sara sofia tariq "
    "tim vera yuki yusuf zoe"
).split()
FAMILY = (  # noqa: SIM905 -- words, not quotes
    "abbott abe acosta ahmed allen almeida andersen baker barbosa bauer becker bell berg "
    "bianchi brown burton campos carter castro chen clarke cohen conti costa cruz dahl davies "
    "diaz dubois duran edwards eriksson evans fischer flores fontaine garcia gomez greco gupta "
    "haas hall hansen hassan hill hopper huang hughes ibrahim ito jackson jansen johnson jones "
    "kato kaur keller khan kim klein kowalski kumar lang larsen lee lopez lovelace martin mbeki "
    "meyer mori moreau moser murphy nakamura nguyen novak okafor olsen ortiz park patel perez "
    "petrov popov ramos reyes rossi santos sato schmidt silva singh smith suzuki tanaka turing "
    "vega wagner wang weber yilmaz zhang"
).split()
DOMAINS = ("example.com", "example.org", "example.net")  # belong to nobody (RFC 2606)
# One more has come every so often since then.
FIRST_CAME = datetime(2020, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(seconds=20)


def example_users(number: int, seed: int) -> Iterator[NewUser]:
    """Yield ``number`` users, all different, the first ones the same whatever the number is."""
    chance = random.Random(seed)  # noqa: S311 -- examples, not secrets
    pairs = [f"{given}.{family}" for given in GIVEN for family in FAMILY]
    chance.shuffle(pairs)
    first_round = chance.randrange(1, 5000)
    for n in range(number):
        turn, which = divmod(n, len(pairs))
        # Lower case and ASCII, so canonical as they are.
        username = f"{pairs[which]}{first_round + turn}"
        email = f"{username}@{DOMAINS[which % len(DOMAINS)]}"
        came = FIRST_CAME + n * INTERVAL
        changed = came + chance.random() * INTERVAL * 100_000
        yield NewUser(username, username, email, email, came, changed)
