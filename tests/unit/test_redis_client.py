"""The client that each form of REDIS_URL makes, where nobody answers."""

import pytest
from redis import RedisError

from tests.e2e.service import free_port
from user_service.cache.connection import redis_client


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
@pytest.mark.parametrize("form", ["redis", "redis+cluster", "redis+sentinel"])
def test_server_that_is_away_is_an_error_of_redis(form: str, host: str) -> None:
    path = "/users" if form == "redis+sentinel" else ""
    client = redis_client(f"{form}://{host}:{free_port()}{path}", timeout=0.5)
    with pytest.raises(RedisError):
        client.get("key")
