"""The client that each form of REDIS_URL makes, without a Redis."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from select import select

import pytest
import redis

from dev.ports import free_port
from tests.waiting import eventually
from user_service.cache.redis_client import NoConnectionFree, redis_client
from user_service.cache.redis_url import Topology, parse_redis_url
from user_service.errors import Unavailable
from user_service.resilience import resolver

SECRET = "1oak-of-the-2nd-grove"
SENTINEL = "redis+sentinel://{}/users"
FORMS = ["redis://{}/0", SENTINEL, "redis+cluster://{}"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["127.0.0.1", "[::1]", "localhost"])
def test_server_that_is_away_is_an_error_of_redis(form: str, name: str) -> None:
    with closing(redis_client(form.format(f"{name}:{free_port()}"), timeout=5)) as client:
        for _ in range(2):
            with pytest.raises(redis.ConnectionError) as raised:
                client.execute("GET", "key")
            assert not isinstance(raised.value, Unavailable)  # which a circuit breaker ignores
        assert client.connections_made == 0


@pytest.mark.parametrize("form", FORMS)
def test_closed_client_is_an_error_of_redis(form: str) -> None:
    client = redis_client(form.format(f"127.0.0.1:{free_port()}"), timeout=5)
    client.close()
    with pytest.raises(redis.ConnectionError):
        client.execute("GET", "key")


@pytest.mark.parametrize("form", FORMS)
def test_command_without_a_free_connection_says_nothing_about_redis(form: str) -> None:
    address = ("127.0.0.1", 0)
    with socket.create_server(address) as one, socket.create_server(address) as other:
        silent = [one] if form == FORMS[0] else [one, other]
        hosts = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in silent)
        # A Cluster's second command waits for the Redis time-out, while the first asks both nodes.
        url = f"{form.format(hosts)}?max_connections=1&timeout=0.05"
        with closing(redis_client(url, timeout=0.5)) as client, ThreadPoolExecutor(1) as thread:
            first = thread.submit(client.execute, "GET", "key")
            readable, _, _ = select(silent, [], [], 30)
            assert readable  # the first command is on its way
            with pytest.raises(NoConnectionFree) as raised:
                client.execute("GET", "key")
            assert isinstance(raised.value, Unavailable)
            assert not isinstance(first.exception(), Unavailable)


@pytest.mark.parametrize("form", [FORMS[0], SENTINEL])
def test_name_that_is_not_resolved_in_time_is_a_server_that_is_away(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hang(name: str, timeout: float) -> list[str]:
        asked.append((name, timeout))
        raise OSError("not resolved")

    monkeypatch.setattr(resolver, "addresses", hang)
    client = redis_client(form.format("cache.internal"), timeout=0.25)
    with closing(client), pytest.raises(redis.ConnectionError):
        client.execute("GET", "key")
    assert asked == [("cache.internal", 0.25)]


def test_cluster_is_waited_for_no_longer_than_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    looked_up = []

    def hang(host: str, *_: object, **__: object) -> list[object]:
        looked_up.append(host)
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with closing(redis_client("redis+cluster://cache.internal", timeout=0.1)) as client:
        try:
            with pytest.raises(redis.TimeoutError):
                client.execute("GET", "key")
            eventually(lambda: "cache.internal" in looked_up)
        finally:
            release.set()


PARTS = [
    ("redis://ada:pw@host:1/2", redis.Connection, {"host": "host", "port": 1, "db": 2}),
    ("unix:///r.sock?db=1", redis.UnixDomainSocketConnection, {"path": "/r.sock", "db": 1}),
    ("redis+sentinel://:p%40w@a,[::1]:7/my%2Fusers/3", redis.Connection, {"db": 3}),
    ("rediss+cluster://a:1,b?ssl_ca_certs=/ca", redis.SSLConnection, {"ssl_ca_certs": "/ca"}),
]


@pytest.mark.parametrize(("url", "connection_class", "options"), PARTS)
def test_url_is_taken_apart(
    url: str, connection_class: type[object], options: dict[str, object]
) -> None:
    parts = parse_redis_url(url)
    assert (parts.connection_class, parts.options) == (connection_class, options)


def test_url_names_a_login_and_several_hosts() -> None:
    sentinel = parse_redis_url("redis+sentinel://:p%40w@a,[::1]:7/my%2Fusers/3")
    assert (sentinel.topology, sentinel.service) == (Topology.SENTINEL, "my/users")
    assert (sentinel.login, sentinel.hosts) == (("p@w",), (("a", 26379), ("::1", 7)))
    cluster = parse_redis_url("rediss+cluster://ada:pw@a:1,b")
    assert (cluster.topology, cluster.service) == (Topology.CLUSTER, "")
    assert (cluster.login, cluster.hosts) == (("ada", "pw"), (("a", 1), ("b", 6379)))


@pytest.mark.parametrize("form", FORMS)
def test_option_that_is_not_supported_is_refused_at_once(form: str) -> None:
    with pytest.raises(ValueError, match="has an option that is not supported") as refused:
        redis_client(form.format(f":{SECRET}@host") + "?ssl=true", timeout=0.5)
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None
