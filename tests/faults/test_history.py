"""Concurrent clients under faults at random, their history checked; and tests of the checker.

FAULT_SECONDS says how long (10), FAULT_SEED which faults come when and what the clients ask for.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.service import GUNICORN
from tests.faults.harness.clients import Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.nemesis import LAG, OF_PAGES, Nemesis
from tests.faults.harness.operations import Kind, Operation, Outcome
from tests.faults.harness.stage import Stage
from tests.faults.harness.standby import Standby, lag
from tests.faults.history import PageRule, Verdict, check

SECONDS = float(os.environ.get("FAULT_SECONDS", "10"))
SEED = int(os.environ.get("FAULT_SEED") or random.randrange(10**6))
REPOSITORY = Path(__file__).parents[2]

# So short that faults outlast the deadline, and pages the bound of their age, often.
TTL, STALE_TTL = 1, 10
ENVIRONMENT = {
    "REQUEST_TIMEOUT": "2",
    "REDIS_TIMEOUT": "0.5",
    "CACHE_TTL": str(TTL),
    "CACHE_STALE_TTL": str(STALE_TTL),
}
# After a fault of Redis: the breaker asks again after 1 s, the repair after 0.2 s, and what was
# cached in between lives for the TTL.
SETTLING = TTL + 1.5
# The faults that bring out the mistakes of the broken builds.
FAULTS_OF = {"blind_retry": ("COMMIT cut, stored", "COMMIT cut, not stored")}


@pytest.fixture
def standby(stage: Stage, tmp_path: Path) -> Iterator[Standby]:
    with Standby(tmp_path / "standby", stage.postgres) as standby:
        yield standby


@pytest.mark.row("faults at random, history checked")
@pytest.mark.timeout(120 + 2 * SECONDS)
@pytest.mark.parametrize(
    "setup", ["alone", *(pytest.param(s, marks=pytest.mark.slow) for s in ("replica", "edge"))]
)
def test_no_answer_is_contradicted_whatever_fails(
    stage: Stage, row: Row, request: pytest.FixtureRequest, setup: str
) -> None:
    replica = setup == "replica"
    standby = request.getfixturevalue("standby") if replica else None
    row.fault += f", {setup}"
    row.note(f"FAULT_SEED={SEED} FAULT_SECONDS={SECONDS:.0f}")
    mix = Mix(clients=10, keyed=0.5, seed=SEED)
    if setup == "edge":  # most pages come from Redis
        mix = replace(mix, create=4, update=4, delete=3, read=9, list=80)
    environment = ENVIRONMENT | ({"DATABASE_REPLICA_URL": standby.url} if standby else {})
    environment |= {"GATEWAY_PAGES": "true"} if setup == "edge" else {}
    with stage.scene(row, mix, environment=environment, after=4) as scene:
        scene.workers_may_change = True
        nemesis = Nemesis(stage, scene.service, SEED, standby=standby)
        with scene.fault():
            nemesis.rage(SECONDS)
        # Pages may be old during faults of what invalidates them, and shortly after.
        excused = [
            (begin, end + SETTLING) for kind, begin, end in nemesis.spans if kind in OF_PAGES
        ]
        bound = TTL + 1.5 + (LAG if replica else 0)
        scene.pages = PageRule(excused, bound, STALE_TTL + 1.5, reads_too=replica)
        row.note(", ".join(f"{kind} {times}" for kind, times in sorted(nemesis.provoked.items())))
    pages = [each for each in scene.load.operations if each.users is not None]
    strict = sum(scene.pages.allowance(page) == 0 for page in pages)
    row.note(f"{len(pages)} pages, {strict} of them by the strict rule")
    assert strict > 0


def findings_on(
    build: str, stage: Stage, row: Row, mix: Mix, standby: Standby | None = None
) -> Verdict:
    """Play a broken build for some seconds and return what the checker finds."""
    application = f"tests.faults.broken:{build}()"
    command = [*GUNICORN[:-1], "--pythonpath", str(REPOSITORY), application]
    replica = {} if standby is None else {"DATABASE_REPLICA_URL": standby.url}
    environment = ENVIRONMENT | replica
    with stage.scene(row, mix, environment=environment, command=command, after=0.5) as scene:
        scene.checked = False
        with scene.fault():
            Nemesis(stage, scene.service, SEED, FAULTS_OF.get(build, ())).rage(3)
    rule = PageRule(reads_too=standby is not None)
    verdict = check(scene.load.operations, stage.users(), rule)
    row.note(f"FAULT_SEED={SEED}: {len(verdict.findings)} findings, such as")
    row.notes += [f"  {line}" for line in verdict.findings[:2]]
    return verdict


@pytest.mark.slow
@pytest.mark.row("broken build: replica read whatever it has")
def test_checker_finds_reads_of_a_replica_that_lags(
    stage: Stage, row: Row, standby: Standby
) -> None:
    lag(standby, LAG)
    mix = Mix(clients=10, seed=SEED)
    found = findings_on("unchecked_replica", stage, row, mix, standby)
    assert found.stale
    assert found.stale_pages


@pytest.mark.row("broken build: invalidation before commit")
def test_checker_finds_invalidation_before_commit(stage: Stage, row: Row) -> None:
    # Few writes: the next one puts right what the last one left, and many pages to be caught.
    mix = Mix(clients=10, create=3, update=4, delete=1, read=2, list=90, pause=0.005, seed=SEED)
    stage.database_link.delay(0.02)  # so that more happens between invalidation and COMMIT
    assert findings_on("invalidation_before_commit", stage, row, mix).stale_pages


@pytest.mark.row("broken build: blind retry of POST")
def test_checker_finds_blind_retry_of_post(stage: Stage, row: Row) -> None:
    # Every COMMIT is that of a POST, and few names are taken.
    mix = Mix(clients=10, create=40, update=0, delete=0, list=0, names=3000, seed=SEED)
    found = findings_on("blind_retry", stage, row, mix)
    # Refused, and yet it is there; or refused since such a one is there, of which nobody knows.
    assert any("409" in line for line in (*found.ghosts, *found.twice))


# Hand-written histories: times in seconds, values "a", "b", ...

UNKNOWN, FAILED, REFUSED = Outcome.UNKNOWN, Outcome.FAILED, Outcome.REFUSED
Span = tuple[float, float]


def create(
    value: str, at: Span, user_id: int | None = 1, outcome: Outcome = Outcome.OK, status: int = 201
) -> Operation:
    return Operation(Kind.CREATE, outcome, *at, status, user_id, "ada", value)


def update(value: str, at: Span, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(Kind.UPDATE, outcome, *at, 200, 1, "", value)


def delete(at: Span, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(Kind.DELETE, outcome, *at, 204, 1)


def read(value: str | None, at: Span) -> Operation:
    if value is None:
        return Operation(Kind.READ, REFUSED, *at, 404, 1)
    return Operation(Kind.READ, Outcome.OK, *at, 200, 1, "", value)


def page(users: dict[int, str], at: Span, cache: str = "HIT") -> Operation:
    return Operation(Kind.LIST, Outcome.OK, *at, 200, users=users, cache=cache)


A, B, GONE = create("a", (0, 1)), update("b", (2, 3)), delete((2, 3))
LONG_B = update("b", (2, 9))
UNKNOWN_A, UNKNOWN_B = create("a", (0, 1), None, UNKNOWN), update("b", (2, 3), UNKNOWN)
FAILED_A, FAILED_B = create("a", (0, 1), None, FAILED, 503), update("b", (2, 3), FAILED)
REFUSED_A, REFUSED_B = (create(value, (2, 3), None, REFUSED, 409) for value in "ab")
READ_A, READ_B, READ_NONE = (read(value, (4, 5)) for value in ("a", "b", None))
LATE_A, LATE_B = read("a", (6, 7)), read("b", (6, 7))
PAGE_A, EMPTY_PAGE = page({1: "a"}, (4, 5)), page({}, (4, 5))
PAGES = [page({}, (0, 0.5)), A, page({1: "a"}, (2, 3)), delete((4, 5)), page({}, (6, 7))]

SOUND: dict[str, tuple[list[Operation], dict[int, str]]] = {
    "nothing": ([], {}),
    "written and read": ([A, READ_A], {1: "a"}),
    "overwritten": ([A, B, READ_B], {1: "b"}),
    "read the old during a write": ([A, LONG_B, READ_A], {1: "b"}),
    "read the new during a write": ([A, LONG_B, READ_B], {1: "b"}),
    "writes at once, either wins": ([A, LONG_B, update("c", (3, 5))], {1: "b"}),
    "deleted": ([A, GONE, READ_NONE], {}),
    "unknown update that happened": ([A, UNKNOWN_B], {1: "b"}),
    "unknown update that did not": ([A, UNKNOWN_B], {1: "a"}),
    "unknown update that happened late": ([A, UNKNOWN_B, READ_A, LATE_B], {1: "b"}),
    "unknown create that happened": ([UNKNOWN_A], {7: "a"}),
    "unknown create that did not": ([UNKNOWN_A], {}),
    "unknown delete that happened": ([A, delete((2, 3), UNKNOWN), READ_NONE], {}),
    "failed create that left nothing": ([FAILED_A], {}),
    "409 while another has the name": ([A, REFUSED_B], {1: "a"}),
    "409 for the sake of an unknown create": ([UNKNOWN_A, REFUSED_B], {}),
    "fresh pages": (PAGES, {}),
    "old page during a write": ([A, LONG_B, PAGE_A], {1: "b"}),
}
UNSOUND: dict[str, tuple[list[Operation], dict[int, str], str]] = {
    "lost create": ([A], {}, "lost"),
    "lost update": ([A, B], {1: "a"}, "lost"),
    "lost delete": ([A, GONE], {1: "a"}, "lost"),
    "lost though read": ([A, UNKNOWN_B, READ_B], {1: "a"}, "lost"),
    "stale read": ([A, B, READ_A], {1: "b"}, "stale"),
    "read after delete": ([A, GONE, READ_A], {}, "stale"),
    "new, then old": ([A, LONG_B, READ_B, LATE_A], {1: "b"}, "stale"),
    "unknown, new, then old": ([A, UNKNOWN_B, READ_B, LATE_A], {1: "b"}, "stale"),
    "applied twice": (
        [A, B, update("c", (3.1, 3.2)), READ_B, read("c", (6, 7))],
        {1: "c"},
        "stale",
    ),
    "gone without a delete": ([A, READ_NONE], {1: "a"}, "lost"),
    "failed create is there": ([FAILED_A], {1: "a"}, "ghosts"),
    "refused create is there": ([REFUSED_A], {1: "a"}, "ghosts"),
    "failed update is read": ([A, FAILED_B, READ_B], {1: "b"}, "ghosts"),
    "value from nowhere": ([A, read("z", (2, 3))], {1: "a"}, "ghosts"),
    "read before it was written": ([A, READ_B, update("b", (6, 7))], {1: "b"}, "ghosts"),
    "created twice": ([UNKNOWN_A], {1: "a", 2: "a"}, "twice"),
    "created, and once more": ([A], {1: "a", 2: "a"}, "twice"),
    "deleted twice": ([A, GONE, delete((4, 5))], {}, "twice"),
    "409 and nobody has the name": ([REFUSED_B], {}, "twice"),
    "409 after the delete": ([A, delete((1.1, 1.2)), REFUSED_B], {}, "twice"),
    "old page": ([A, B, PAGE_A], {1: "b"}, "stale_pages"),
    "page without a user": ([A, EMPTY_PAGE], {1: "a"}, "stale_pages"),
    "page with a deleted user": ([A, GONE, PAGE_A], {}, "stale_pages"),
}
REPLICA = PageRule(reads_too=True)
ONLY_WITHOUT_REPLICA = {"new, then old", "unknown, new, then old"}

with_and_without_replica = pytest.mark.parametrize("rule", [PageRule(), REPLICA])


@with_and_without_replica
@pytest.mark.parametrize("case", SOUND)
def test_sound_history_passes(case: str, rule: PageRule) -> None:
    operations, rows = SOUND[case]
    assert check(operations, rows, rule).findings == []


@with_and_without_replica
@pytest.mark.parametrize("case", UNSOUND)
def test_unsound_history_is_found_out(case: str, rule: PageRule) -> None:
    operations, rows, kind = UNSOUND[case]
    found = getattr(check(operations, rows, rule), kind)
    assert found or (rule.reads_too and case in ONLY_WITHOUT_REPLICA)


@pytest.mark.parametrize(("seen", "reads_too"), [(PAGE_A, False), (READ_A, True)])
def test_page_or_read_of_a_replica_may_be_old_only_while_excused_and_only_so_old(
    seen: Operation, reads_too: bool
) -> None:
    operations, rows = [A, B, seen], {1: "b"}
    excused = PageRule([(2, 6)], bound=2, reads_too=reads_too)
    assert check(operations, rows, excused).findings == []
    for rule in (replace(excused, bound=0.5), replace(excused, excused=[(6, 7)])):
        assert check(operations, rows, rule).findings


def test_page_marked_stale_may_be_as_old_as_that_allows() -> None:
    rule = PageRule(stale_bound=2)
    assert check([A, B, replace(PAGE_A, cache="STALE")], {1: "b"}, rule).findings == []
    assert check([A, B, PAGE_A], {1: "b"}, rule).findings


@pytest.mark.parametrize("old", ["a", None])
def test_reads_of_a_replica_may_flicker_until_the_write_is_acknowledged(old: str | None) -> None:
    writes = [A, LONG_B] if old else [A, delete((2, 9))]
    new, rows = ("b", {1: "b"}) if old else (None, {})
    flicker = [read(new, (3, 4)), read("a", (5, 6)), read(new, (7, 8))]
    assert check([*writes, *flicker], rows, REPLICA).findings == []
    assert check([*writes, *flicker], rows).stale
    assert check([*writes, read("a", (10, 11))], rows, REPLICA).stale
