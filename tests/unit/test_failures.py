"""What each SQLSTATE means for a request (PostgreSQL manual, appendix A)."""

import psycopg2
import pytest

from user_service.database.failures import CONNECTION_IS_USELESS, translated
from user_service.errors import (
    ConnectionLost,
    LockTimeout,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)

TRANSIENT = {
    "08000": "connection_exception",
    "08001": "sqlclient_unable_to_establish_sqlconnection",
    "08003": "connection_does_not_exist",
    "08006": "connection_failure",
    "08P01": "protocol_violation",
    "25006": "read_only_sql_transaction",
    "40001": "serialization_failure",
    "40P01": "deadlock_detected",
    "53300": "too_many_connections",
    "57P01": "admin_shutdown",
    "57P02": "crash_shutdown",
    "57P03": "cannot_connect_now",
}
CONTENTION = {"40001", "40P01"}
UNAVAILABLE = {
    "53000": "insufficient_resources",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53400": "configuration_limit_exceeded",
    "55P03": "lock_not_available",
    "57014": "query_canceled",
    "57P04": "database_dropped",
    "58000": "system_error",
    "58030": "io_error",
    "58P01": "undefined_file",
}
A_BUG = {
    None: "no SQLSTATE",
    "22001": "string_data_right_truncation",
    "22021": "character_not_in_repertoire",
    "23502": "not_null_violation",
    "23505": "unique_violation",
    "23514": "check_violation",
    "25P02": "in_failed_sql_transaction",
    "28P01": "invalid_password",
    "42601": "syntax_error",
    "42P01": "undefined_table",
    "42501": "insufficient_privilege",
    "54000": "program_limit_exceeded",
    "XX000": "internal_error",
}
SQL = "duplicate key value violates constraint of INSERT INTO users"


def failure(sqlstate: str | None) -> psycopg2.Error:
    """Return an error as the driver raises it; ``pgcode`` can be set in no other way."""

    class Failure(psycopg2.Error):
        pgcode = sqlstate

    return Failure(SQL)


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        *((code, ConnectionLost) for code in sorted(TRANSIENT.keys() - CONTENTION)),
        *((code, TransientFailure) for code in sorted(CONTENTION)),
        *((code, Unavailable) for code in sorted(UNAVAILABLE.keys() - {"55P03"})),
        ("55P03", LockTimeout),
        *((code, type(None)) for code in A_BUG),
    ],
)
def test_meaning_of_what_a_living_server_answers(
    sqlstate: str | None, kind: type[Exception] | None
) -> None:
    assert type(translated(failure(sqlstate), connection_lost=False)) is kind


@pytest.mark.parametrize("sqlstate", [*TRANSIENT, *UNAVAILABLE, *A_BUG])
def test_with_the_connection_lost_everything_is_transient(sqlstate: str | None) -> None:
    assert isinstance(translated(failure(sqlstate), connection_lost=True), TransientFailure)


@pytest.mark.parametrize("sqlstate", ["08007", "40003"])
def test_outcome_that_the_server_does_not_know_is_unknown(sqlstate: str) -> None:
    for connection_lost in (False, True):
        error = translated(failure(sqlstate), connection_lost=connection_lost)
        assert type(error) is OutcomeUnknown


@pytest.mark.parametrize(
    ("sqlstate", "connection_lost"), [("40001", False), ("57014", False), (None, True)]
)
def test_message_repeats_nothing_of_the_drivers(
    sqlstate: str | None, connection_lost: bool
) -> None:
    message = str(translated(failure(sqlstate), connection_lost=connection_lost))
    assert SQL not in message
    assert (sqlstate or "connection lost") in message


def test_only_a_read_only_server_makes_a_living_connection_useless() -> None:
    assert set(CONNECTION_IS_USELESS) == {"25006"}
