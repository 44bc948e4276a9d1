"""Every command of the page store and of the rate limits on each kind of installation.

The service has the documented permissions and no others.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis as redis_py

from tests.redis_states import identify
from tests.redis_topologies import PASSWORD, DebianRedis, cluster, run, sentinel
from tests.responses import Serve, json_of
from user_service.cache.page_store import LookUp, PageStore
from user_service.cache.redis_client import redis_client

DOCUMENT = Path(__file__).parents[2] / "docs" / "postgresql-and-redis.md"
URL = "/api/v1/users"
TIMEOUT = 2.0
PAGE = "1:50"


@pytest.fixture(scope="module", params=["socket", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("redis")
    if request.param == "socket":
        socket = folder / "redis" / "socket"
        with DebianRedis(folder / "redis", {"unixsocket": str(socket)}) as server:
            of_database_1 = as_user(f"unix://:{PASSWORD}@{socket}?db=1", server)
            run(server, "ACL SETUSER users +select")
            yield of_database_1
    elif request.param == "sentinel":
        with sentinel(folder) as watched:
            yield as_user(watched.url, watched.master)
    else:
        with cluster(folder, "{pages}") as nodes:
            yield as_user(nodes.url, *nodes.masters)


def as_user(url: str, *nodes: DebianRedis) -> str:
    """Make the documented user on ``nodes``, and return ``url`` with its login."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for command in text.split("```redis\n")[1].split("```")[0].splitlines():
        for node in nodes:
            run(node, command.replace(">password", f">{PASSWORD}"))
    return url.replace(f"//:{PASSWORD}@", f"//users:{PASSWORD}@")


def opened(url: str) -> PageStore:
    return PageStore(redis_client(url, timeout=TIMEOUT), identify, ttl=60, stale_ttl=300)


@pytest.fixture
def store(url: str) -> Iterator[PageStore]:
    with closing(opened(url)) as store:
        store.replace_generation()
        yield store


@pytest.fixture
def another(url: str) -> Iterator[PageStore]:
    """The store of another process."""
    with closing(opened(url)) as store:
        yield store


def test_page_is_claimed_kept_and_put_out_of_date(store: PageStore, another: PageStore) -> None:
    store.check()
    generation = store.current().generation
    assert [each.look_up(PAGE).claimed for each in (another, store, another)] == [True, False, True]
    another.give_back(PAGE)
    assert store.look_up(PAGE).claimed
    assert store.store(PAGE, generation, b"body")
    assert store.look_up(PAGE) == LookUp(generation, None, b"body")
    store.replace_generation(despite_open_breaker=True)
    assert store.look_up(PAGE).body is None
    assert not store.store(PAGE, generation, b"late")
    assert store.look_up_stale(PAGE) == b"body"


def test_login_is_read_again_for_each_connection(url: str) -> None:
    urls = [url.replace(PASSWORD, "old", 1)]
    with closing(redis_client(urls[0], timeout=TIMEOUT, current_url=lambda: urls[-1])) as client:
        with pytest.raises(redis_py.ConnectionError):
            client.execute("GET", "users:{pages}")
        urls.append(url)
        assert client.execute("GET", "users:{pages}") is None


def test_position_in_the_log_is_kept_and_only_grows(store: PageStore) -> None:
    begun = store.current()
    assert begun.lsn is None
    assert store.settle(begun.generation, 10).lsn == 10
    for lsn in (30, 20):
        store.replace_generation(lsn)
    assert store.current().lsn == 30
    assert store.settle(begun.generation, 40).lsn == 30


def test_limits_are_counted_over_all_processes(serving: Serve, url: str) -> None:
    changed = {"rate_limit": "3/minute", "redis_url": url, "redis_timeout": TIMEOUT}
    one, other = serving(**changed), serving(**changed)
    for address in (f"192.0.2.{n}" for n in range(1, 13)):
        peer = {"REMOTE_ADDR": address}
        answers = [each.get(URL, environ_base=peer) for each in (one, other, one, other)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert json_of(one.get("/health"))["status"] == "healthy"
