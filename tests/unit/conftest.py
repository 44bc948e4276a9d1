"""What several unit tests need: a clock that stands still, and no request at the end of a test."""

from collections.abc import Iterator

import pytest

from user_service.observability import request_id
from user_service.resilience import deadline


class Clock:
    """Stands still until a test moves it on. Stands in for the ``time`` module too."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    monotonic = __call__


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def outside_of_a_request() -> Iterator[None]:
    yield
    deadline.clear()
    request_id.clear()
