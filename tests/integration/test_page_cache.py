"""The page cache of the service on a real Redis. tests/faults has many readers and writers."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis as redis_py
from flask.testing import FlaskClient

from dev.servers import RedisServer
from tests.integration.users import ADA, GRACE, URL, USER, create, total, x_cache
from tests.redis_states import cut_connections, generation_key, identify
from tests.responses import Serve, json_of
from user_service.cache.page_store import PAGE_PREFIX, PageStore
from user_service.cache.redis_client import redis_client
from user_service.web.services import services_of


def commands_of(redis: redis_py.Redis, call: Callable[[], object]) -> dict[str, int]:
    """Return how often ``call`` runs each Redis command."""
    redis.execute_command("CONFIG RESETSTAT")
    call()
    stats = redis.info("commandstats")
    own = ("cmdstat_config|resetstat", "cmdstat_info")
    return {name[8:]: each["calls"] for name, each in stats.items() if name not in own}


def test_pages_of_other_sizes_are_other_entries(client: FlaskClient) -> None:
    for number, size in ((1, 10), (11, 1), (1, 11)):
        assert x_cache(client, page=number, per_page=size) == "MISS"
    # Both are served as the same page.
    assert x_cache(client, per_page=100) == "MISS"
    assert x_cache(client, per_page=5000) == "HIT"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "", GRACE, 201),
        ("PUT", "/1", GRACE, 200),
        ("PATCH", "/1", {"username": "grace"}, 200),
        ("DELETE", "/1", None, 204),
        ("POST", "", ADA, 409),
        ("DELETE", "/9", None, 404),
    ],
)
def test_every_write_is_seen_at_once_and_a_refused_one_leaves_the_cache_alone(
    client: FlaskClient, method: str, path: str, body: dict[str, str] | None, status: int
) -> None:
    create(client, "ada")
    client.get(URL)
    assert x_cache(client) == "HIT"
    assert client.open(URL + path, method=method, json=body).status_code == status
    assert x_cache(client) == ("MISS" if status < 300 else "HIT")


def test_write_costs_one_command_whatever_redis_holds(
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    """So does a hit; a miss costs two."""
    client.get(URL)  # opens the connection and loads the scripts
    create(client, "ada")
    pages = generation_key(redis).removesuffix(b"generation") + PAGE_PREFIX.encode()
    redis.mset({pages + b"page=%d" % n: "a page" for n in range(2_000)})
    miss = commands_of(redis, lambda: client.get(URL))
    hit = commands_of(redis, lambda: client.get(URL))
    write = commands_of(redis, lambda: create(client, "grace"))
    # The commands within a script are counted beside it.
    assert (miss["evalsha"], "eval" in miss) == (2, False)
    assert hit == {"evalsha": 1, "mget": 1}
    assert write == {"evalsha": 1, "mget": 1, "mset": 1}


def test_without_redis_every_user_route_answers_the_same(serving: Serve, log: io.StringIO) -> None:
    client = serving(redis_url="redis://127.0.0.1:1")
    services_of(client.application).open()
    assert log.getvalue().count("starting without Redis: ") == 1
    create(client, "ada")
    assert x_cache(client) == "BYPASS"
    assert total(client) == 1
    assert client.patch(USER, json={"username": "grace"}).status_code == 200
    assert json_of(client.get(USER))["username"] == "grace"
    assert client.delete(USER).status_code == 204
    assert total(client) == 0
    health = client.get("/health")
    assert (health.status_code, json_of(health)["status"]) == (200, "degraded")
    assert client.get("/health/ready").status_code == 200


class TestPermissions:
    """Managed services give fewer than the cache would like."""

    @pytest.fixture
    def admin(self, own_redis: RedisServer) -> Iterator[redis_py.Redis]:
        with redis_py.Redis.from_url(own_redis.url) as admin:
            permit(admin, "on nopass ~* +@all")
            yield admin

    @pytest.fixture
    def url(self, own_redis: RedisServer) -> str:
        """The URL of the user whose permissions change."""
        return f"redis://users:any@127.0.0.1:{own_redis.port}/0"

    def test_without_info_a_connection_begins_anew(self, admin: redis_py.Redis, url: str) -> None:
        permit(admin, "-info")
        clients = (redis_client(url, timeout=2) for _ in range(2))
        store, other = (PageStore(each, identify, ttl=60, stale_ttl=60) for each in clients)
        with closing(store), closing(other):
            for each, body in ((store, b"body"), (other, b"newer")):
                assert each.store("page", each.look_up("page").generation, body)
                assert each.look_up("page").body == body
            assert [each.look_up("page").body for each in (store, other)] == [b"newer"] * 2
            cut_connections(admin)
            assert store.look_up("page").body is None

    def test_without_a_command_that_writes_need_the_service_is_degraded(
        self, admin: redis_py.Redis, url: str, serving: Serve
    ) -> None:
        plain, limited = (
            serving(redis_url=url, redis_timeout=2, rate_limit=limit) for limit in (None, "9/day")
        )

        def states() -> list[str]:
            return [json_of(each.get("/health"))["status"] for each in (plain, limited)]

        both, limits, none = ["degraded"] * 2, ["healthy", "degraded"], ["healthy"] * 2
        assert states() == none
        for commands, expected in (
            ("get mset del eval", both),
            ("exists incrby pttl rename", limits),
            ("info", none),
        ):
            for command in commands.split():
                permit(admin, f"-{command}")
                seen = states()
                permit(admin, f"+{command}")
                assert (command, seen) == (command, expected)

    @pytest.mark.parametrize("command", ["evalsha", "mget", "set"])
    def test_without_another_command_the_service_is_degraded_and_says_so_once(
        self, admin: redis_py.Redis, url: str, serving: Serve, log: io.StringIO, command: str
    ) -> None:
        client = serving(redis_url=url, redis_timeout=2, rate_limit="100/minute")

        def states() -> list[str]:
            health = json_of(client.get("/health"))
            return [x_cache(client), health["status"], health["redis"]]

        assert states() == ["MISS", "healthy", "connected"]
        permit(admin, f"-{command}")
        admin.flushall()
        for _ in range(5):
            assert states() == ["BYPASS", "degraded", "connected"]
        permit(admin, f"+{command}")
        assert states() == ["MISS", "healthy", "connected"]
        lines = [line for line in log.getvalue().splitlines() if "page cache" in line]
        assert len(lines) == 2
        assert "WARNING" in lines[0]
        assert "no permissions to run the" in lines[0]
        assert "page cache read again" in lines[1]


def permit(admin: redis_py.Redis, rules: str) -> None:
    admin.execute_command("ACL SETUSER users", *rules.split())
