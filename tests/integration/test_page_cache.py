"""The page cache of the service on a real Redis: hits, invalidation, and never an older page."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest
import redis as redis_py
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from tests.redis_states import generation_key, identify, out_of_memory
from tests.responses import Serve, json_of
from tests.servers import Servers
from tests.waiting import eventually
from user_service.cache.page_cache import CacheStatus, PageCache
from user_service.cache.page_store import PAGE, PageStore
from user_service.cache.redis_client import redis_client
from user_service.errors import Unavailable
from user_service.web.services import Services, services_of

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
URL = "/api/v1/users"
LONG = 30.0  # seconds; only a test that fails waits so long
TTL, STALE_TTL = 60, 300
NAME = "page=1"
HIT, MISS, BYPASS = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.BYPASS
MakeProcess = Callable[..., PageCache]


@pytest.fixture
def process(servers: Servers, redis: redis_py.Redis) -> Iterator[MakeProcess]:
    """Return a function that makes the cache of one process, on the same Redis as the others."""
    made: list[PageCache] = []

    def make(sleep: Callable[[float], None] = time.sleep) -> PageCache:
        client = redis_client(servers.redis_url, timeout=2)
        store = PageStore(client, identify, ttl=TTL, stale_ttl=STALE_TTL)
        made.append(PageCache(store, sleep=sleep))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


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
    # Both are served as the same page.
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
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    """So does a hit; a miss costs two."""
    client.get(URL)  # opens the connection and loads the scripts
    create(client, "ada")
    pages = generation_key(redis).removesuffix(b"generation") + PAGE.encode()
    redis.mset({pages + b"page=%d" % n: "a page" for n in range(2_000)})
    with commands_counted(redis) as miss:
        assert x_cache(client) == "MISS"
    with commands_counted(redis) as hit:
        assert x_cache(client) == "HIT"
    with commands_counted(redis) as write:
        create(client, "grace")
    # The commands within a script are counted beside it.
    assert (miss["evalsha"], "eval" in miss) == (2, False)
    assert hit == {"evalsha": 1, "mget": 1}
    assert write == {"evalsha": 1, "get": 1, "mset": 1}


def test_without_redis_every_user_route_answers_the_same(serving: Serve) -> None:
    client = serving(redis_url="redis://127.0.0.1:1")
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


def test_failed_invalidation_stops_reading_until_it_is_repaired_without_any_request(
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    create(client, "ada")
    client.get(URL)
    key = generation_key(redis)
    generation = redis.get(key)
    with out_of_memory(redis):
        create(client, "grace")
        assert redis.get(key) == generation
        assert total(client) == 2
        assert x_cache(client) == "BYPASS"
    eventually(lambda: redis.get(key) != generation)
    eventually(lambda: x_cache(client) == "HIT")
    assert total(client) == 2


def test_last_page_is_served_while_the_database_is_away(
    client: FlaskClient, services: Services, mocker: MockerFixture
) -> None:
    create(client, "ada")
    before = client.get(URL)
    create(client, "grace")  # puts the page out of date
    for read in ("page", "get"):
        mocker.patch.object(services.users, read, side_effect=Unavailable("down"))
    stale = client.get(URL)
    assert (stale.status_code, stale.headers["X-Cache"]) == (200, "STALE")
    assert stale.data == before.data
    assert client.get(f"{URL}?page=2").status_code == 503
    assert client.get(f"{URL}/1").status_code == 503


def test_stale_pages_can_be_switched_off(serving: Serve, mocker: MockerFixture) -> None:
    client = serving(cache_stale_ttl=0)
    client.get(URL)
    services = services_of(client.application)
    services.pages.invalidate()
    mocker.patch.object(services.users, "page", side_effect=Unavailable("down"))
    assert client.get(URL).status_code == 503


def test_twenty_misses_in_two_processes_read_the_page_once(
    process: MakeProcess,
    redis: redis_py.Redis,
    joined: threading.Semaphore,
    threads: ThreadPoolExecutor,
) -> None:
    other_process_waits, stored = threading.Event(), threading.Event()

    def wait_for_the_store(_: float) -> None:
        other_process_waits.set()
        assert stored.wait(LONG)

    def produce_when_all_wait(_: int | None) -> bytes:
        for _ in range(18):  # all but the first of each process
            assert joined.acquire(timeout=LONG)
        assert other_process_waits.wait(LONG)
        return b"body"

    def never(_: int | None) -> bytes:
        pytest.fail("read although another caller does")

    here, there = process(), process(sleep=wait_for_the_store)
    first = threads.submit(here.get_or_produce, NAME, produce_when_all_wait)
    eventually(lambda: len(list(redis.scan_iter("*:refill"))) == 1)
    others = [
        threads.submit(pages.get_or_produce, NAME, never)
        for pages in islice(cycle((here, there)), 1, 20)
    ]
    assert first.result(LONG) == (b"body", MISS)
    stored.set()
    assert {each.result(LONG) for each in others} == {(b"body", MISS)}


def test_no_reader_gets_a_page_older_than_an_acknowledged_write(
    process: MakeProcess, threads: ThreadPoolExecutor
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

        def produce(_: int | None) -> bytes:
            value = committed
            time.sleep(chance.uniform(0, 0.004))
            return b"%d" % value

        for _ in range(150):
            at_least = acknowledged
            body, status = chance.choice(processes).get_or_produce(NAME, produce)
            assert int(body) >= at_least
            hits += status is HIT
        return hits

    writers = [threads.submit(write, seed) for seed in range(2)]
    readers = [threads.submit(read, seed) for seed in range(12)]
    for each in writers:
        each.result(LONG)
    assert sum(each.result(LONG) for each in readers) > 0
