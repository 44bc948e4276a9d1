"""Faults of Redis: every status stays what it was, and pages stay fresh, or bounded by the TTL."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import pytest
import redis as redis_py

from app import create_services
from tests.faults.harness.clients import Client
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Kind, Operation, Outcome, failures
from tests.faults.harness.stage import Scene, Stage
from tests.redis_states import generation_key, promote
from tests.waiting import eventually
from user_service.cache.page_cache import PageCache, Produce
from user_service.settings import Settings

TTL = 2
# Between the end of a fault of Redis and the end of what it may do to pages: the breaker asks
# again after 1 s, the repair of an invalidation after 0.2 s.
SETTLING = 2.5


# By name, where the pages come from: the service, or the gateway that reads them itself.
FRONTS = pytest.mark.parametrize("front", [{}, {"GATEWAY_PAGES": "true"}], ids=["", "edge"])


def excuse(scene: Scene) -> None:
    """Let pages be as old as the TTL from the beginning of the fault until it has settled."""
    scene.pages = replace(
        scene.pages, excused=[(scene.began, scene.ended + SETTLING)], bound=TTL + 1
    )


def all_answered(operations: list[Operation]) -> None:
    assert len(operations) > 50
    assert failures(operations) == []


@pytest.mark.slow
@FRONTS
@pytest.mark.parametrize("fault", ["killed", "stopped (SIGSTOP)"])
@pytest.mark.row("Redis")
def test_without_redis_every_status_stays_and_requests_are_50_ms_slower_at_most(
    stage: Stage, row: Row, fault: str, front: dict[str, str]
) -> None:
    row.fault += f" {fault}{edge_of(front)}"
    environment = {"REDIS_TIMEOUT": "0.05", "CACHE_TTL": str(TTL), **front}
    with stage.scene(row, after=3, environment=environment) as scene:
        calm = list(scene.load.operations)
        with scene.fault():
            made = stage.redis_link.connections_made
            stage.redis.kill() if fault == "killed" else stage.redis.freeze()
            time.sleep(3)
            attempts = stage.redis_link.connections_made - made
        stage.redis.start() if fault == "killed" else stage.redis.thaw()
        excuse(scene)
    during = scene.during()
    all_answered(during)
    slower = median_of_lists(during) - median_of_lists(calm)
    row.note(
        f"lists {slower * 1000:+.1f} ms in the median, {attempts} connections to Redis tried"
        f" for {len(during)} requests"
    )
    assert slower < 0.05
    # Three failures, then one try a second, and the repair's: in each of two processes.
    assert attempts <= 60
    settled = [each for each in lists(during) if each.started > scene.began + 0.5]
    assert {each.cache for each in settled} == {"BYPASS"}


def edge_of(front: dict[str, str]) -> str:
    return " behind the edge" if front else ""


def lists(operations: list[Operation]) -> list[Operation]:
    return [each for each in operations if each.kind is Kind.LIST]


def median_of_lists(operations: list[Operation]) -> float:
    return statistics.median(each.seconds for each in lists(operations))


@pytest.mark.row("Redis stopped: attempts of single requests")
def test_frozen_redis_is_asked_once_a_request_and_then_not_at_all(stage: Stage, row: Row) -> None:
    link = stage.redis_link
    link.watched = (b"EVALSHA",)
    environment = {"REDIS_TIMEOUT": "0.05", "WEB_CONCURRENCY": "1"}
    with stage.service(environment) as service, Client(service.url) as client:
        eventually(lambda: client.list_users().cache == "HIT")
        stage.redis.freeze()
        attempts, pages = [], []
        for _ in range(20):
            before = link.seen.total() + link.connections_made
            pages.append(client.list_users())
            attempts.append(link.seen.total() + link.connections_made - before)
        stage.redis.thaw()
    row.count(pages)
    row.note(f"attempts of each request: {attempts}")
    all_bypass = {(each.outcome, each.cache) for each in pages}
    assert all_bypass == {(Outcome.OK, "BYPASS")}
    # The breaker opens with the third, and lets one more try after a second.
    assert attempts[:3] == [1, 1, 1]
    assert max(attempts) == 1
    assert sum(attempts) <= 3 + sum(each.seconds for each in pages) + 1


@pytest.mark.slow
@FRONTS
@pytest.mark.row("Redis flushed under load")
def test_flush_brings_no_generation_back_and_no_stale_page(
    stage: Stage, row: Row, front: dict[str, str]
) -> None:
    row.fault += edge_of(front)
    generations: list[bytes] = []
    with (
        stage.scene(row, environment=front) as scene,
        scene.fault(),
        stage.redis_client() as client,
    ):
        key = generation_key(client)
        for _ in range(100):
            client.flushall()
            for _ in range(5):
                generation = client.get(key)
                if isinstance(generation, bytes) and generations[-1:] != [generation]:
                    generations.append(generation)
                time.sleep(0.004)
    all_answered(scene.during())
    again = [name for name, times in Counter(generations).items() if times > 1]
    row.note(f"100 flushes, {len(generations)} generations seen, {len(again)} of them twice")
    assert again == []


@pytest.mark.row("Redis flushed: refills")
def test_page_is_refilled_once_however_many_ask_for_it_at_once(stage: Stage, row: Row) -> None:
    stage.database_link.watched = (b"LIMIT",)
    with stage.service() as service, ThreadPoolExecutor(24) as threads, ExitStack() as stack:
        clients = [stack.enter_context(Client(service.url, number=n)) for n in range(24)]
        clients[0].create("ada", "ada@example.com")
        done = [each for client in clients for each in [client.list_users()]]
        stage.database_link.delay(0.05)  # a refill takes a while, so that others meet it
        stage.database_link.seen.clear()
        with stage.redis_client() as redis:
            for _ in range(20):
                redis.flushall()
                done += threads.map(Client.list_users, clients)
        refills = stage.database_link.seen.total()
        stage.database_link.resume()
    row.count(done)
    row.note(f"20 flushes, {refills} refills for {len(done) - 24} requests")
    all_answered(done)
    assert 20 <= refills <= 24  # two processes may begin two generations at one moment


@pytest.mark.slow
@FRONTS
@pytest.mark.row("Redis failed over: the replica lacks the last writes")
def test_promoted_replica_revives_no_page(stage: Stage, row: Row, front: dict[str, str]) -> None:
    row.fault += edge_of(front)
    with stage.scene(row, after=5, environment=front) as scene, stage.redis_client() as redis:
        time.sleep(1)
        old = {key: redis.dump(key) for key in redis.scan_iter("*{pages}*")}
        time.sleep(1)
        with scene.fault():
            stage.redis_link.hold()
            for key, value in old.items():
                if isinstance(value, bytes):
                    redis.restore(key, 60_000, value, replace=True)
            promote(redis)
            stage.redis_link.cut()
            stage.redis_link.resume()
        settled = [(scene.began, scene.ended + SETTLING)]
        scene.pages = replace(scene.pages, excused=settled, bound=61)
    all_answered(scene.load.operations)
    served = [each for each in lists(scene.load.operations) if each.cache == "HIT"]
    assert any(each.started > scene.ended + SETTLING for each in served)


@contextmanager
def refusing(stage: Stage, how: str) -> Iterator[None]:
    """Have Redis answer and refuse every write for a block."""
    with stage.redis_client() as redis:
        if how == "out of memory":
            redis.config_set("maxmemory-policy", "noeviction")
            redis.config_set("maxmemory", "1")
        elif how == "read-only":
            redis.replicaof("127.0.0.1", "1")
        else:
            stage.dumps.rmdir()  # while it stands in there: it can write no dump
            redis.config_set("save", "3600 1")
            redis.bgsave()
        eventually(lambda: refuses_writes(redis))
        yield
        redis.config_set("maxmemory", "0")
        redis.config_set("save", "")
        redis.replicaof("NO", "ONE")


def refuses_writes(redis: redis_py.Redis) -> bool:
    try:
        redis.set("probe", "")
    except redis_py.RedisError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("refusal", ["out of memory", "read-only", "MISCONF"])
@pytest.mark.parametrize("processes", [1, 2])
@FRONTS
@pytest.mark.row("Redis refuses writes:")
def test_failed_invalidation_makes_no_page_older_than_the_ttl(
    stage: Stage, row: Row, refusal: str, processes: int, front: dict[str, str]
) -> None:
    """The process itself stops reading the cache: alone, it has no excuse for an old page."""
    row.fault += f" {refusal}, processes: {processes}{edge_of(front)}"
    environment = {"CACHE_TTL": str(TTL), "WEB_CONCURRENCY": str(processes), **front}
    processes += len(front)  # the gateway reads too
    with stage.scene(row, after=3, environment=environment) as scene:
        with refusing(stage, refusal), scene.fault():
            time.sleep(3 * processes)
        if processes > 1:
            excuse(scene)
    all_answered(scene.during())
    settled = [each for each in lists(scene.during()) if each.started > scene.began + 0.5]
    assert processes > 1 or {each.cache for each in settled} == {"BYPASS"}


def store_late(pages: PageCache, reads: Mapping[str, Produce], write: Callable[[], object]) -> None:
    """Read each page within the read of the one before, then ``write``, then store them all."""
    if not reads:
        write()
        return
    (name, read), *others = reads.items()

    def read_and_pause(lsn: int | None) -> bytes:
        page = read(lsn)
        store_late(pages, dict(others), write)
        return page

    pages.get_or_produce(name, read_and_pause)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reads", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.row("late store:")
def test_page_read_before_a_write_is_not_served_after_it(
    stage: Stage, row: Row, reads: int
) -> None:
    """Readers read the old number and pause, a writer commits, then they store their pages.

    They use the service's cache and pool: over HTTP the pause would be a matter of luck.
    """
    row.fault += f" {reads:,} reads"
    stage.sql("CREATE TABLE shown AS SELECT -1 AS number")
    stage.sql("ALTER TABLE shown OWNER TO users")
    urls = {"database_url": stage.postgres.url, "redis_url": stage.redis.url, "redis_timeout": 2}
    late = [f"late:{reader}" for reader in range(20)]
    with closing(create_services(Settings.model_validate(urls))) as services:
        services.open()
        pages, database = services.pages, services.database

        def read(_lsn: int | None) -> bytes:
            with database.read() as cursor:
                cursor.execute("SELECT number FROM shown")
                (shown,) = cursor.fetchone() or (None,)
                return str(shown).encode()

        def write() -> None:
            with database.transaction() as cursor:
                cursor.execute("UPDATE shown SET number = number + 1")
            pages.invalidate()

        for number in range(reads // len(late)):
            pages.invalidate()
            store_late(pages, dict.fromkeys(late, read), write)
            shown = [int(pages.get_or_produce(name, read)[0]) for name in late]
            row.stale += len(shown) - shown.count(number)
    row.sent = row.acknowledged = reads
    assert row.stale == 0


@pytest.mark.row("started with Redis away")
def test_started_without_redis_it_is_ready_and_degraded(stage: Stage, row: Row) -> None:
    stage.redis.stop()
    with stage.service() as service, Client(service.url) as client:
        health = client.ask("GET", "/health")
        assert (health.status, health.body["status"]) == (200, "degraded")
        row.count([client.create("ada", "ada@example.com"), client.list_users()])
        stage.redis.start()
        began = time.monotonic()
        eventually(lambda: client.list_users().cache == "HIT")
        row.recovery = time.monotonic() - began
    assert row.acknowledged == 2
    assert row.recovery < 5
