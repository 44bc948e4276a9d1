"""More load than the service can serve, and an outage on top of it."""

import time
from statistics import median

import pytest

from tests.faults.harness.clients import Load, Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Operation, Outcome
from tests.faults.harness.stage import Stage

# What limits the service here is its pool, not this machine: 4 connections and 50 ms for each
# round trip, so that the clients, on the same processors, can ask for far more than that.
SCARCE = {"WEB_CONCURRENCY": "1", "DB_POOL_SIZE": "4"}
POOL_TIMEOUT = 0.3  # short, so that few clients can ask for much
ROUND_TRIP = 0.05
# So many clients at once, until more of them get no more done.
CLIENTS = (2, 4, 8, 12)
SECONDS = 5.0
ROUNDS = 3


def mix(clients: int) -> Mix:
    return Mix(clients=clients, list=0, pause=0.002)


def rates(operations: list[Operation], begin: float, end: float) -> tuple[float, float]:
    """Return how many requests a second ended, and how many of them as they were asked."""
    ended = [each for each in operations if begin <= each.ended < end]
    answered = [each for each in ended if each.outcome in (Outcome.OK, Outcome.REFUSED)]
    return len(ended) / (end - begin), len(answered) / (end - begin)


def rates_of(stage: Stage, row: Row, clients: int) -> tuple[float, float]:
    """Return the ``rates`` of so many clients on a service of their own."""
    stage.reset()
    with stage.service(SCARCE | {"DB_POOL_TIMEOUT": str(POOL_TIMEOUT)}) as service:
        stage.database_link.delay(ROUND_TRIP)
        with Load(service.url, mix=mix(clients)) as load:
            time.sleep(1 + SECONDS)
            now = time.monotonic()
    row.count(load.operations)
    assert [each.complaint for each in load.operations if each.complaint] == []
    return rates(load.operations, now - SECONDS, now)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.row("3 x load")
def test_goodput_holds_under_three_times_the_load(stage: Stage, row: Row) -> None:
    goodput = {clients: rates_of(stage, row, clients)[1] for clients in CLIENTS}
    row.note("goodput " + ", ".join(f"{goodput[n]:.0f}/s of {n}" for n in CLIENTS) + " clients")
    best = max(goodput, key=lambda clients: goodput[clients])
    # Who is refused asks again after POOL_TIMEOUT: so many ask for more than three times the peak.
    crowd = round(5 * goodput[best] * POOL_TIMEOUT)
    # In turn, so that whatever else this machine does hits both alike.
    rounds = [(rates_of(stage, row, best), rates_of(stage, row, crowd)) for _ in range(ROUNDS)]
    peak = median(answered for (_, answered), _ in rounds)
    asked = median(ended for _, (ended, _) in rounds)
    held = median(answered for _, (_, answered) in rounds)
    row.note(
        f"{crowd} clients ask for {asked:.0f}/s, {asked / peak:.1f} x the peak:"
        f" goodput {held:.0f}/s, {held / peak:.0%} of the peak"
    )
    assert asked >= 3 * peak
    assert held >= 0.8 * peak


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.row("3 x as many clients as it takes, and a 30 s outage")
def test_goodput_comes_back_after_an_outage_and_is_not_amplified(stage: Stage, row: Row) -> None:
    link = stage.database_link
    with stage.scene(row, mix(12), environment=SCARCE, after=8) as scene:
        link.delay(ROUND_TRIP)
        time.sleep(SECONDS)
        now = time.monotonic()
        _, before = rates(scene.load.operations, now - SECONDS, now)
        made = link.connections_made
        with scene.fault():
            link.refuse()
            time.sleep(30)
            attempts = link.connections_made - made
            link.resume()
            link.delay(ROUND_TRIP)
    _, back = rates(scene.load.operations, scene.ended + 5, scene.ended + 8)
    requests = len(scene.during())
    row.note(f"goodput before the outage {before:.0f}/s, 5 s after it {back:.0f}/s")
    row.note(f"{attempts} attempts at the database for {requests} requests during the outage")
    assert back >= 0.8 * before
    assert attempts <= 1.1 * requests + 20
