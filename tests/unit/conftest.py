"""A clock that stands still, for several unit tests."""

import pytest


class Clock:
    """Stands still until a test moves it on. Stands in for the ``time`` module too."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    monotonic = __call__


@pytest.fixture
def clock() -> Clock:
    return Clock()
