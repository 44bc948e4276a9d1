"""The page cache on a real Redis: hits, invalidation, and what must never be served."""

import fcntl
import random
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import redis as redis_py
from flask.testing import FlaskClient
from pytest_mock import MockerFixture
from redis.sentinel import SentinelManagedConnection

from app import create_app
from tests.responses import json_of
from tests.servers import Servers
from tests.waiting import eventually
from user_service.cache.client import MAX_CONNECTIONS, BoundedConnection, Pool, RedisClient
from user_service.cache.connection import redis_client
from user_service.cache.page_cache import CacheStatus, PageCache
from user_service.cache.page_store import (
    CLAIM_SECONDS,
    GENERATION_KEY,
    HISTORY_KEY,
    PREFIX,
    PageStore,
)
from user_service.cache.write_behind import WriteBehind
from user_service.errors import Unavailable
from user_service.resilience import deadline, resolver
from user_service.resilience.breaker import State
from user_service.settings import Settings
from user_service.web.services import Services, services_of

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
URL = "/api/v1/users"
LONG = 30.0  # seconds: nobody who does as they should waits for so long
TTL, STALE_TTL = 60, 300
HIT, MISS, BYPASS = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.BYPASS
MakeProcess = Callable[..., PageCache]


@pytest.fixture
def pages(services: Services) -> PageCache:
    return services.pages


@pytest.fixture
def process(servers: Servers, redis: redis_py.Redis) -> Iterator[MakeProcess]:
    """Make page caches as one process each has, all on the same Redis."""
    made: list[PageCache] = []

    def make(
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        current_lsn: Callable[[], int] | None = None,
    ) -> PageCache:
        client = redis_client(servers.redis_url, timeout=2)
        store = PageStore(client, ttl=TTL, stale_ttl=STALE_TTL, clock=clock)
        made.append(PageCache(store, sleep=sleep, current_lsn=current_lsn))
        return made[-1]

    yield make
    for each in made:
        each.close()


def never(_: object = None) -> bytes:
    pytest.fail("produced although there is a page")


@contextmanager
def out_of_memory(redis: redis_py.Redis) -> Iterator[None]:
    """Make Redis refuse every write."""
    redis.config_set("maxmemory", "1")
    redis.config_set("maxmemory-policy", "noeviction")
    try:
        yield
    finally:
        redis.config_set("maxmemory", "0")


def x_cache(client: FlaskClient, query: str = "") -> str:
    return client.get(URL + query).headers["X-Cache"]


def total(client: FlaskClient) -> int:
    number: int = json_of(client.get(URL))["pagination"]["total"]
    return number


def create(client: FlaskClient, name: str) -> None:
    body = {"username": name, "email": f"{name}@example.com"}
    assert client.post(URL, json=body).status_code == 201


@contextmanager
def commands_counted(redis: redis_py.Redis) -> Iterator[dict[str, int]]:
    """Yield a dictionary that holds, after the block, how often each Redis command was run."""
    redis.execute_command("CONFIG RESETSTAT")
    counts: dict[str, int] = {}
    yield counts
    stats = redis.info("commandstats")
    counts |= {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
    counts.pop("config|resetstat", None)
    counts.pop("info", None)


def test_second_read_is_a_hit_with_the_same_bytes(client: FlaskClient) -> None:
    create(client, "ada")
    first, second = client.get(URL), client.get(URL)
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("MISS", "HIT")
    assert first.data == second.data
    assert first.headers["Content-Type"] == second.headers["Content-Type"] == "application/json"


def test_pages_of_other_sizes_are_other_entries(client: FlaskClient) -> None:
    for query in ("?page=1&per_page=10", "?page=11&per_page=1", "?page=1&per_page=11"):
        assert x_cache(client, query) == "MISS"
    # Served as the same page, so the same entry.
    assert x_cache(client, "?per_page=100") == "MISS"
    assert x_cache(client, "?per_page=5000") == "HIT"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"username": "grace", "email": "grace@example.com"}),
        ("PUT", "/1", {"username": "grace", "email": "grace@example.com"}),
        ("PATCH", "/1", {"username": "grace"}),
        ("DELETE", "/1", None),
    ],
)
def test_every_kind_of_write_is_seen_at_once(
    client: FlaskClient, method: str, path: str, body: dict[str, str] | None
) -> None:
    create(client, "ada")
    client.get(URL)
    assert x_cache(client) == "HIT"
    assert client.open(URL + path, method=method, json=body).status_code < 300
    assert x_cache(client) == "MISS"


def test_refused_writes_leave_the_cache_alone(client: FlaskClient) -> None:
    create(client, "ada")
    client.get(URL)
    assert client.post(URL, json={"username": "ADA", "email": "a@example.com"}).status_code == 409
    assert client.delete(f"{URL}/9").status_code == 404
    assert x_cache(client) == "HIT"


def test_write_costs_one_command_whatever_redis_holds(
    client: FlaskClient, pages: PageCache, redis: redis_py.Redis
) -> None:
    redis.mset({f"{PREFIX}{n}:50": "a page" for n in range(2_000)})
    redis.mset({f"other:{n}": "another's" for n in range(2_000)})
    client.get(URL)  # so that the connection is there
    pages.flush()
    with commands_counted(redis) as counts:
        create(client, "ada")
    assert counts == {"set": 1}


def test_hit_costs_one_command(
    client: FlaskClient, pages: PageCache, redis: redis_py.Redis
) -> None:
    client.get(URL)
    pages.flush()
    with commands_counted(redis) as counts:
        assert x_cache(client) == "HIT"
    assert counts == {"mget": 1}


def test_miss_costs_one_script_before_it_is_read_and_one_after(
    client: FlaskClient, pages: PageCache, redis: redis_py.Redis
) -> None:
    client.get(URL)
    pages.flush()
    with commands_counted(redis) as counts:
        client.get(f"{URL}?per_page=7")
        pages.flush()
    assert counts["evalsha"] == 2
    assert "eval" not in counts


def test_server_that_has_forgotten_the_scripts_is_told_them_again(
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    client.get(URL)
    redis.script_flush()
    create(client, "ada")
    assert [x_cache(client) for _ in range(2)] == ["MISS", "HIT"]


def test_page_read_before_a_write_and_stored_after_it_is_refused(
    client: FlaskClient, pages: PageCache
) -> None:
    def read_slowly_while_somebody_writes(_: object = None) -> bytes:
        pages.invalidate()
        return b"from before the write"

    body, status = pages.get_or_produce("1:50", read_slowly_while_somebody_writes)
    assert (body, status) == (b"from before the write", CacheStatus.MISS)
    assert pages.get_or_produce("1:50", lambda _: b"fresh") == (b"fresh", CacheStatus.MISS)


def test_page_is_found_by_its_process_before_it_is_stored(
    client: FlaskClient, pages: PageCache, redis: redis_py.Redis
) -> None:
    pages._stores = WriteBehind(lambda _: None)
    assert [x_cache(client) for _ in range(2)] == ["MISS", "HIT"]
    assert redis.get(f"{PREFIX}page=1&per_page=50") is None
    create(client, "ada")
    assert total(client) == 1


def test_late_store_does_not_displace_the_page_stored_meanwhile(pages: PageCache) -> None:
    def overtaken(_: object = None) -> bytes:
        pages.invalidate()
        pages.get_or_produce("1:50", lambda _: b"fresh")
        return b"from before the write"

    pages.get_or_produce("1:50", overtaken)
    pages.flush()
    assert pages.get_or_produce("1:50", lambda _: b"unused") == (b"fresh", CacheStatus.HIT)


@pytest.mark.parametrize("loss", ["flush", "evict the generation"])
def test_generation_does_not_come_back_after_redis_lost_it(
    pages: PageCache, redis: redis_py.Redis, loss: str
) -> None:
    def overtaken_by_the_loss(_: object = None) -> bytes:
        redis.flushall() if loss == "flush" else redis.delete(GENERATION_KEY)
        pages.get_or_produce("2:50", lambda _: b"makes a generation")
        pages.invalidate()
        return b"from before the write"

    pages.get_or_produce("1:50", overtaken_by_the_loss)
    assert pages.get_or_produce("1:50", lambda _: b"fresh") == (b"fresh", CacheStatus.MISS)


def test_entries_run_into_their_ttl(
    client: FlaskClient, pages: PageCache, redis: redis_py.Redis, settings: Settings
) -> None:
    client.get(URL)
    pages.flush()
    assert 0 < redis.ttl(f"{PREFIX}page=1&per_page=50") <= settings.cache_stale_ttl
    assert redis.ttl(GENERATION_KEY) == -1


def test_without_redis_every_user_route_answers_the_same(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": None, "redis_port": 1})
    app = create_app(nowhere)
    client = app.test_client()
    try:
        create(client, "ada")
        assert x_cache(client) == "BYPASS"
        assert total(client) == 1
        assert client.patch(f"{URL}/1", json={"username": "grace"}).status_code == 200
        assert json_of(client.get(f"{URL}/1"))["username"] == "grace"
        assert client.delete(f"{URL}/1").status_code == 204
        assert total(client) == 0
        health = client.get("/health")
        assert (health.status_code, json_of(health)["status"]) == (200, "degraded")
        assert client.get("/health/ready").status_code == 200
    finally:
        services_of(app).close()


def test_failed_invalidation_stops_reading_until_it_is_made_up_for(
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    create(client, "ada")
    client.get(URL)
    with out_of_memory(redis):
        create(client, "grace")
        assert total(client) == 2
        assert x_cache(client) == "BYPASS"
    eventually(lambda: x_cache(client) == "HIT")
    assert total(client) == 2


def test_without_room_for_claims_everybody_reads(
    process: MakeProcess, redis: redis_py.Redis
) -> None:
    here, there = process(), process()
    here.get_or_produce("1:50", lambda _: b"stored")
    here.flush()
    with out_of_memory(redis):
        assert there.get_or_produce("1:50", never) == (b"stored", HIT)
        for pages in (here, there):
            assert pages.get_or_produce("2:50", lambda _: b"read") == (b"read", MISS)


def test_server_that_takes_no_writes_is_not_asked_for_what_it_does_not_have(
    process: MakeProcess, redis: redis_py.Redis
) -> None:
    """As a master that was demoted: who is told so looks for the new one."""
    pages = process()
    pages.get_or_produce("1:50", lambda _: b"stored")
    pages.flush()
    redis.execute_command("REPLICAOF 127.0.0.1 1")
    try:
        assert pages.get_or_produce("1:50", never) == (b"stored", HIT)
        assert pages.get_or_produce("2:50", lambda _: b"read") == (b"read", BYPASS)
    finally:
        redis.execute_command("REPLICAOF NO ONE")


def test_last_page_is_served_while_the_database_is_down(
    client: FlaskClient, pages: PageCache, mocker: MockerFixture
) -> None:
    create(client, "ada")
    before = client.get(URL)
    pages.flush()
    create(client, "grace")  # so that the page is out of date, yet still there
    mocker.patch("user_service.database.pool.Database.read", side_effect=Unavailable("down"))
    stale = client.get(URL)
    assert (stale.status_code, stale.headers["X-Cache"]) == (200, "STALE")
    assert stale.data == before.data
    assert client.get(f"{URL}?page=2").status_code == 503
    assert client.get(f"{URL}/1").status_code == 503


def test_stale_pages_can_be_switched_off(settings: Settings, mocker: MockerFixture) -> None:
    app = create_app(settings.model_copy(update={"cache_stale_ttl": 0}))
    client = app.test_client()
    client.get(URL)
    services_of(app).pages.invalidate()
    mocker.patch("user_service.database.pool.Database.read", side_effect=Unavailable("down"))
    assert client.get(URL).status_code == 503
    services_of(app).close()


def test_two_applications_share_pages_and_invalidation(
    client: FlaskClient, pages: PageCache, settings: Settings
) -> None:
    other_app = create_app(settings)
    other = other_app.test_client()
    try:
        client.get(URL)
        pages.flush()
        assert x_cache(other) == "HIT"
        create(client, "ada")
        assert total(other) == 1
    finally:
        services_of(other_app).close()


class TestSingleFlight:
    @pytest.fixture
    def joined(self, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
        """Released by everybody who is about to wait for another's refill in the same process."""
        joined = threading.Semaphore(0)

        def announcing() -> float:
            joined.release()
            return deadline.remaining()

        announced = SimpleNamespace(remaining=announcing)
        monkeypatch.setattr("user_service.cache.single_flight.deadline", announced)
        return joined

    @pytest.fixture
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(20) as threads:
            yield threads

    def test_twenty_misses_in_one_process_produce_once(
        self, process: MakeProcess, joined: threading.Semaphore, threads: ThreadPoolExecutor
    ) -> None:
        produced = []

        def produce_when_all_wait(_: object = None) -> bytes:
            produced.append(1)
            for _ in range(19):
                assert joined.acquire(timeout=LONG)
            return b"body"

        pages = process()
        readers = [
            threads.submit(pages.get_or_produce, "1:50", produce_when_all_wait) for _ in range(20)
        ]
        assert {each.result(LONG) for each in readers} == {(b"body", MISS)}
        assert len(produced) == 1
        assert pages.get_or_produce("1:50", never) == (b"body", HIT)

    def test_twenty_misses_in_two_processes_produce_once(
        self,
        process: MakeProcess,
        redis: redis_py.Redis,
        joined: threading.Semaphore,
        threads: ThreadPoolExecutor,
    ) -> None:
        others_wait, stored = threading.Event(), threading.Event()

        def wait_for_the_store(_: float) -> None:
            others_wait.set()
            assert stored.wait(LONG)

        here, there = process(), process(sleep=wait_for_the_store)

        def produce_when_all_wait(_: object = None) -> bytes:
            for _ in range(18):  # of each process, all but the first
                assert joined.acquire(timeout=LONG)
            assert others_wait.wait(LONG)
            return b"body"

        first = threads.submit(here.get_or_produce, "1:50", produce_when_all_wait)
        eventually(lambda: len(claim_keys(redis)) == 1)
        readers = [
            threads.submit(pages.get_or_produce, "1:50", never)
            for pages in islice(cycle((here, there)), 1, 20)
        ]
        assert first.result(LONG) == (b"body", MISS)
        stored.set()
        assert {each.result(LONG) for each in readers} == {(b"body", MISS)}

    def test_reader_after_a_write_does_not_join_a_flight_of_before(
        self, process: MakeProcess, threads: ThreadPoolExecutor
    ) -> None:
        here, there = process(), process()
        reads, go_on = threading.Event(), threading.Event()

        def read_before_the_write(_: object = None) -> bytes:
            reads.set()
            assert go_on.wait(LONG)
            return b"old"

        late = threads.submit(here.get_or_produce, "1:50", read_before_the_write)
        assert reads.wait(LONG)
        there.invalidate()
        for pages in (here, there):
            body, _ = pages.get_or_produce("1:50", lambda _: b"new")
            assert body == b"new"
        go_on.set()
        assert late.result(LONG) == (b"old", MISS)
        for pages in (here, there):
            assert pages.get_or_produce("1:50", never) == (b"new", HIT)

    def test_claim_of_a_process_that_died_runs_out(
        self, process: MakeProcess, redis: redis_py.Redis
    ) -> None:
        dying, waiting = process(), process(sleep=lambda _: None)
        assert dying._store.look_up("1:50").is_ours
        (claim,) = claim_keys(redis)
        assert 0 < redis.pttl(claim) <= CLAIM_SECONDS * 1000
        assert waiting.get_or_produce("1:50", lambda _: b"ours") == (b"ours", MISS)

    def test_claim_holds_where_the_position_is_settled_only_then(
        self, process: MakeProcess
    ) -> None:
        assert process()._store.look_up("1:50").is_ours
        beside_a_replica = process(current_lsn=lambda: 7).look_up("1:50")
        assert beside_a_replica is not None
        assert (beside_a_replica.lsn, beside_a_replica.is_ours) == (7, False)

    def test_claim_of_its_own_process_is_waited_for_by_nobody(self, process: MakeProcess) -> None:
        """Or who has claimed a page could wait for somebody who waits for that claim."""
        pages = process(sleep=lambda _: pytest.fail("waits"))
        assert pages.look_up("1:50") is not None
        assert pages.get_or_produce("1:50", lambda _: b"body") == (b"body", MISS)

    def test_no_claim_is_left(self, process: MakeProcess, redis: redis_py.Redis) -> None:
        pages = process()
        pages.get_or_produce("1:50", lambda _: b"body")
        pages.flush()
        left = {GENERATION_KEY, HISTORY_KEY, f"{PREFIX}1:50"}
        assert set(redis.keys()) == {key.encode() for key in left}

    def test_no_reader_gets_a_page_older_than_an_acknowledged_write(
        self, process: MakeProcess, threads: ThreadPoolExecutor
    ) -> None:
        """Readers and writers in three processes at once, on a database that is a number."""
        committed, acknowledged, writing = 0, 0, threading.Lock()
        processes = [process() for _ in range(3)]

        def write(seed: int) -> None:
            nonlocal committed, acknowledged
            chance = random.Random(seed)
            for _ in range(60):
                with writing:
                    committed += 1
                    mine = committed
                chance.choice(processes).invalidate()
                with writing:
                    acknowledged = max(acknowledged, mine)
                time.sleep(chance.uniform(0, 0.01))

        def read(seed: int) -> int:
            chance, hits = random.Random(seed), 0

            def produce(_: object = None) -> bytes:
                value = committed
                time.sleep(chance.uniform(0, 0.004))
                return b"%d" % value

            for _ in range(150):
                at_least = acknowledged
                body, status = chance.choice(processes).get_or_produce("1:50", produce)
                assert int(body) >= at_least
                hits += status is HIT
            return hits

        writers = [threads.submit(write, seed) for seed in range(2)]
        readers = [threads.submit(read, seed) for seed in range(12)]
        for each in writers:
            each.result(LONG)
        assert sum(each.result(LONG) for each in readers) > 0


def unread(connection: redis_py.Connection) -> int:
    """Return how many bytes have come and were not taken out of the socket."""
    sock: socket.socket = connection._sock  # type: ignore[assignment]
    number = fcntl.ioctl(sock, termios.FIONREAD, bytes(4))
    return int.from_bytes(number, sys.byteorder)


def claim_keys(redis: redis_py.Redis) -> list[bytes]:
    return list(redis.scan_iter("*:refill"))


class TestAge:
    @pytest.fixture
    def now(self) -> list[float]:
        return [1_700_000_000.0]

    @pytest.fixture
    def aging(self, process: MakeProcess, now: list[float]) -> PageCache:
        """A page cache with one page, whose clock is ``now``."""
        pages = process(clock=lambda: now[0])
        pages.get_or_produce("1:50", lambda _: b"old")
        pages.flush()
        return pages

    def test_page_is_fresh_for_its_time(self, aging: PageCache, now: list[float]) -> None:
        now[0] += TTL - 1
        assert aging.get_or_produce("1:50", never) == (b"old", HIT)
        now[0] += 1
        assert aging.get_or_produce("1:50", lambda _: b"new") == (b"new", MISS)
        now[0] += TTL - 1
        assert aging.get_or_produce("1:50", never) == (b"new", HIT)

    @pytest.mark.parametrize("write", [False, True])
    def test_page_is_kept_beyond_its_time_and_the_next_write(
        self, aging: PageCache, now: list[float], write: bool
    ) -> None:
        now[0] += TTL
        if write:
            aging.invalidate()
        assert aging.stale("1:50") == b"old"
        assert aging.stale("2:50") is None

    @pytest.mark.usefixtures("aging")
    def test_page_is_kept_so_long(self, redis: redis_py.Redis) -> None:
        assert STALE_TTL - 10 < redis.ttl(f"{PREFIX}1:50") <= STALE_TTL

    def test_stale_page_is_the_last_that_was_stored(self, aging: PageCache) -> None:
        aging.invalidate()
        aging.get_or_produce("1:50", lambda _: b"new")
        aging.flush()
        aging.invalidate()
        assert aging.stale("1:50") == b"new"


class TestFailedInvalidation:
    def test_is_made_up_for_without_any_request(
        self, process: MakeProcess, redis: redis_py.Redis
    ) -> None:
        writer, reader = process(), process()
        writer.get_or_produce("1:50", lambda _: b"old")
        generation = redis.get(GENERATION_KEY)
        with out_of_memory(redis):
            writer.invalidate()
            assert redis.get(GENERATION_KEY) == generation
            assert writer.get_or_produce("1:50", lambda _: b"new") == (b"new", BYPASS)
        eventually(lambda: redis.get(GENERATION_KEY) != generation)
        assert reader.get_or_produce("1:50", lambda _: b"new") == (b"new", MISS)
        eventually(lambda: writer.get_or_produce("1:50", lambda _: b"newer") == (b"new", HIT))

    def test_error_that_redis_answers_leaves_the_breaker_closed(
        self, process: MakeProcess, redis: redis_py.Redis
    ) -> None:
        pages = process()
        with out_of_memory(redis):
            for _ in range(5):
                pages.invalidate()
            assert pages.breaker_state is State.CLOSED


class TestConnection:
    def test_server_given_by_name_is_looked_up_for_every_connection(
        self, servers: Servers, mocker: MockerFixture
    ) -> None:
        host = urlsplit(servers.redis_url).hostname or ""
        addresses = {"cache.internal": socket.gethostbyname(host)}
        look_up = mocker.patch.object(
            resolver, "addresses", side_effect=lambda name, _timeout: [addresses[name]]
        )
        client = redis_client(servers.redis_url.replace(host, "cache.internal"), timeout=2)
        for _ in range(2):
            assert client.ping()
            client.connection_pool.disconnect()
        assert [call.args[0] for call in look_up.call_args_list] == ["cache.internal"] * 2

    def test_name_that_is_not_resolved_in_time_is_a_bypass(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = []

        def hang(_name: str, timeout: float) -> list[str]:
            limits.append(timeout)
            raise OSError("not resolved")

        monkeypatch.setattr("user_service.resilience.resolver.addresses", hang)
        client = redis_client("redis://cache.internal:6379/0", timeout=0.25)
        pages = PageCache(PageStore(client, ttl=TTL, stale_ttl=STALE_TTL))
        assert pages.get_or_produce("1:50", lambda _: b"body") == (b"body", BYPASS)
        assert limits == [0.25]

    def test_that_was_closed_while_idle_is_replaced(
        self, servers: Servers, redis: redis_py.Redis
    ) -> None:
        client = redis_client(servers.redis_url, timeout=2)
        before = client.client_id()
        redis.client_kill_filter(_id=str(before))
        assert client.client_id() != before

    @pytest.mark.parametrize("answers_read", [0, 1])
    def test_with_an_answer_that_nobody_read_is_replaced(
        self, servers: Servers, answers_read: int
    ) -> None:
        """Whether the answer is in the socket still, or in the parser behind the one before it."""
        client = redis_client(servers.redis_url, timeout=2)
        connection = client.connection_pool.get_connection()
        connection.send_packed_command(connection.pack_commands([["ECHO", "old"]] * 2))
        eventually(lambda: unread(connection) == 2 * len(b"$3\r\nold\r\n"))
        for _ in range(answers_read):
            assert connection.read_response() == b"old"
            assert not unread(connection)
        client.connection_pool.release(connection)
        assert client.echo("new") == b"new"

    @pytest.mark.parametrize("kind", [BoundedConnection, SentinelManagedConnection])
    def test_whose_answer_came_too_late_is_replaced(
        self, servers: Servers, kind: type[redis_py.Connection]
    ) -> None:
        """Also a kind that does not close itself when it fails to read."""
        client = redis_client(servers.redis_url, timeout=0.05)
        client.connection_pool.connection_class = kind
        if kind is SentinelManagedConnection:
            address = client.connection_pool.connection_kwargs
            address["connection_pool"] = SimpleNamespace(
                get_master_address=lambda: (address["host"], address["port"]),
                is_master=True,
                check_connection=False,
            )
        for number in range(2 * MAX_CONNECTIONS):  # and its place in the pool is free again
            with pytest.raises(redis_py.TimeoutError):
                client.blpop("no such list", 0.1)
            assert client.echo(str(number)) == str(number).encode()

    @pytest.mark.parametrize("sockets", ["Python's own", "gevent's"])
    def test_that_is_idle_is_not_waited_for(self, servers: Servers, sockets: str) -> None:
        """With a time-out, both kinds wait even for what is asked of them without waiting."""
        program = """
import sys, time
from user_service.cache.connection import redis_client

client = redis_client(sys.argv[1], timeout=LONG)
for _ in range(3):
    client.ping()
"""
        patch = "from gevent import monkey; monkey.patch_all()" if sockets == "gevent's" else ""
        command = [sys.executable, "-c", patch + program.replace("LONG", str(LONG))]
        subprocess.run([*command, servers.redis_url], check=True, timeout=LONG, cwd=SERVICE)

    def test_silent_server_is_not_asked_for_a_while(self) -> None:
        client = redis_client("redis://127.0.0.1:1/0", timeout=0.25)
        pages = PageCache(PageStore(client, ttl=TTL, stale_ttl=STALE_TTL))
        for _ in range(3):
            assert pages.get_or_produce("1:50", lambda _: b"body") == (b"body", BYPASS)
        assert pages.breaker_state is State.OPEN
        assert pages.stale("1:50") is None


class TestPosition:
    """What a replica must have replayed to be read from, kept in the generation."""

    @pytest.fixture
    def store(self, servers: Servers, redis: redis_py.Redis) -> Iterator[PageStore]:  # noqa: ARG002
        client = redis_client(servers.redis_url, timeout=2)
        store = PageStore(client, ttl=TTL, stale_ttl=STALE_TTL)
        yield store
        store.close()

    def test_is_unknown_until_somebody_has_asked_the_primary(self, store: PageStore) -> None:
        begun = store.current()
        assert begun.lsn is None
        assert store.settle(begun.generation, 0x1_2345_6789).lsn == 0x1_2345_6789
        assert store.current().lsn == 0x1_2345_6789
        assert store.look_up("1:50").generation == store.current().generation

    def test_only_grows_in_whatever_order_writes_end(self, store: PageStore) -> None:
        store.settle(store.current().generation, 0)
        before = store.current().generation
        for lsn in (2**40, 9, 10, 2**63):
            store.move_on(lsn)
        assert store.current().lsn == 2**63
        store.move_on(1)
        assert store.current().lsn == 2**63
        assert store.current().generation != before

    def test_write_does_not_make_known_what_redis_has_lost(
        self, store: PageStore, redis: redis_py.Redis
    ) -> None:
        """Another write, further on in the log, may have been acknowledged before the loss."""
        redis.flushall()
        store.move_on(10)
        assert store.current().lsn is None
        store.move_on(20)
        assert store.current().lsn is None

    def test_of_a_write_that_does_not_know_its_own_is_unknown(self, store: PageStore) -> None:
        store.settle(store.current().generation, 10)
        store.move_on(None)
        assert store.current().lsn is None

    def test_asked_for_before_a_write_does_not_replace_that_of_the_write(
        self, store: PageStore
    ) -> None:
        begun = store.current().generation
        store.settle(begun, 10)
        store.move_on(20)
        assert store.settle(begun, 15).lsn == 20

    def test_moves_every_page_out_of_date(self, store: PageStore) -> None:
        lsns = [10, 20]
        pages = PageCache(store, current_lsn=lambda: lsns.pop(0))
        assert pages.get_or_produce("1:50", lambda _: b"old") == (b"old", MISS)
        assert pages.get_or_produce("1:50", never) == (b"old", HIT)
        pages.invalidate()
        assert pages.get_or_produce("1:50", lambda _: b"new") == (b"new", MISS)

    def test_is_what_reads_are_told(self, store: PageStore) -> None:
        lsns = [10, 30]
        pages = PageCache(store, current_lsn=lambda: lsns.pop(0))
        told = []

        def produce(lsn: int | None) -> bytes:
            told.append(lsn)
            return b""

        pages.get_or_produce("1:50", produce)
        pages.invalidate()
        pages.get_or_produce("1:50", produce)
        assert [*told, pages.position()] == [10, 30, 30]

    def test_is_unknown_while_the_primary_does_not_say(self, store: PageStore) -> None:
        def fail() -> int:
            raise Unavailable("down")

        assert PageCache(store, current_lsn=fail).position() is None

    def test_costs_nothing_where_there_is_no_replica(
        self, redis: redis_py.Redis, store: PageStore
    ) -> None:
        before = redis.info("stats")["total_commands_processed"]
        assert PageCache(store).position() is None
        assert redis.info("stats")["total_commands_processed"] == before + 1  # the INFO


class TestPool:
    """The short way to a connection is for one that is open and has nothing to read."""

    @pytest.fixture
    def client(self, servers: Servers) -> Iterator[RedisClient]:
        client = redis_client(servers.redis_url, timeout=2)
        yield client
        client.disconnect()

    def test_connection_is_used_again(self, client: RedisClient) -> None:
        assert {client.client_id() for _ in range(5)} == {client.client_id()}
        assert client.changes == 1

    def test_connection_that_the_server_has_closed_is_replaced(
        self, client: RedisClient, redis: redis_py.Redis
    ) -> None:
        before = client.client_id()
        redis.client_kill_filter(_id=str(before))
        assert client.client_id() != before
        assert client.changes == 2

    def test_connection_that_has_something_to_read_is_replaced(self, client: RedisClient) -> None:
        """It would be taken for the answer to the next command."""
        before = client.client_id()
        pool = client.connection_pool
        connection = pool.get_connection()
        connection.send_command("PING")
        eventually(lambda: unread(connection) > 0)
        pool.release(connection)
        assert client.client_id() != before

    def test_connection_of_the_process_before_a_fork_is_left_to_that(
        self, client: RedisClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = client.client_id()
        monkeypatch.setattr(client.connection_pool, "pid", 0)
        assert client.client_id() != before

    def test_none_is_lost_in_failing(self, client: RedisClient) -> None:
        pool = client.connection_pool
        assert isinstance(pool, Pool)
        for _ in range(2 * MAX_CONNECTIONS):
            client.client_id()
            connection = pool.get_connection()
            connection.disconnect()
            pool.release(connection)
        assert len(pool.pool.queue) == MAX_CONNECTIONS
