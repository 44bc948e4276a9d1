"""What each SQLSTATE means for a request (PostgreSQL manual, appendix A)."""

import pytest

from tests.unit.conftest import error_with
from user_service.database.failures import translated
from user_service.errors import (
    ConnectionLost,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)

# Connections, a read-only server, too many clients, a server that stops, crashed or starts.
LOST = ["08000", "08001", "08003", "08006", "08P01", "53300", "57P01", "57P02", "57P03"]
CONTENTION = ["40001", "40P01", "25006"]  # serialization failure, deadlock, no writes
# Resources, a full disk, a limit of the configuration, a lock that was not released in time, a
# cancelled statement, errors of the system.
UNAVAILABLE = [
    *("53000", "53100", "53200", "53400", "55P03"),
    *("57014", "57P04", "58000", "58030", "58P01"),
]
# Invalid data, constraints, authentication, syntax, privileges, limits, an internal error.
BUGS = [
    *("22001", "22021", "23502", "23505", "23514", "25P02", "28P01", "42601", "42P01", "42501"),
    *("54000", "XX000"),
]
SQL = "duplicate key value violates constraint of INSERT INTO users"


@pytest.mark.parametrize(
    ("kind", "sqlstates"),
    [
        (ConnectionLost, LOST),
        (TransientFailure, CONTENTION),
        (Unavailable, UNAVAILABLE),
        (OutcomeUnknown, ["08007", "40003"]),
        (type(None), [None, *BUGS]),
    ],
)
def test_meaning_of_what_a_living_server_answers(
    kind: type[Exception] | None, sqlstates: list[str | None]
) -> None:
    found = {code: type(translated(error_with(code), connection_lost=False)) for code in sqlstates}
    assert found == dict.fromkeys(sqlstates, kind)


def test_with_the_connection_lost_everything_is_transient_but_an_unknown_outcome() -> None:
    for sqlstate in (None, *LOST, *CONTENTION, *UNAVAILABLE, *BUGS):
        assert isinstance(translated(error_with(sqlstate), connection_lost=True), TransientFailure)
    for sqlstate in ("08007", "40003"):
        assert type(translated(error_with(sqlstate), connection_lost=True)) is OutcomeUnknown


@pytest.mark.parametrize(
    ("sqlstate", "connection_lost"), [("40001", False), ("57014", False), (None, True)]
)
def test_message_repeats_nothing_of_the_drivers(
    sqlstate: str | None, connection_lost: bool
) -> None:
    message = str(translated(error_with(sqlstate, SQL), connection_lost=connection_lost))
    assert SQL not in message
    assert (sqlstate or "connection lost") in message
