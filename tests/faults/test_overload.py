"""More load than the service can serve, and an outage on top of it."""

import time

import pytest

from tests.faults.harness.clients import Load, Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Operation, Outcome
from tests.faults.harness.stage import DEADLINE, Stage

# What limits the service here is its pool, not this machine: 4 connections and 20 ms for each
# round trip, so that the clients, on the same processors, can ask for more than that.
SCARCE = {"WEB_CONCURRENCY": "1", "DB_POOL_SIZE": "4"}
ROUND_TRIP = 0.02


def rate(operations: list[Operation], begin: float, end: float) -> float:
    """Return how many requests a second were answered as asked between the two times."""
    answered = (Outcome.OK, Outcome.REFUSED)
    ended = [each for each in operations if begin <= each.ended < end and each.outcome in answered]
    return len(ended) / (end - begin)


def mix(clients: int) -> Mix:
    return Mix(clients=clients, list=0, pause=0.002)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.row("3 x load and a 30 s outage")
def test_goodput_holds_under_three_times_the_load_and_comes_back_after_an_outage(
    stage: Stage, row: Row
) -> None:
    link = stage.database_link
    with stage.service(SCARCE) as service:
        link.delay(ROUND_TRIP)
        load = Load(service.url, deadline=DEADLINE, mix=mix(8))
        load.start()
        time.sleep(6)
        load.stop()
        now = time.monotonic()
        peak = rate(load.operations, now - 5, now)
    stage.reset()
    link.delay(ROUND_TRIP)
    with stage.scene(row, mix(24), environment=SCARCE, after=8) as scene:
        link.delay(ROUND_TRIP)
        scene.wait(5)
        now = time.monotonic()
        goodput = rate(scene.load.operations, now - 5, now)
        made = link.connections_made
        with scene.fault():
            link.refuse()
            scene.wait(30)
            attempts = link.connections_made - made
            link.resume()
            link.delay(ROUND_TRIP)
    back = rate(scene.load.operations, scene.ended + 5, scene.ended + 8)
    requests = len(scene.during())
    row.note(
        f"goodput at 8 clients {peak:.0f}/s, at 24 {goodput:.0f}/s, after the outage {back:.0f}/s"
    )
    row.note(f"{attempts} attempts at the database for {requests} requests during the outage")
    assert goodput >= 0.8 * peak
    assert back >= 0.8 * peak
    assert attempts <= 1.1 * requests + 20
