"""Reading the issuer's keys from an issuer that drips its answer."""

import threading

import pytest

from user_service.errors import Unavailable
from user_service.security import key_set


def test_answer_that_takes_too_long_is_waited_for_and_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answers = [], threading.Event()

    def drip(url: str) -> bytes:
        asked.append(url)
        answers.wait(30)
        return b"{}"

    monkeypatch.setattr("user_service.security.key_set._body_of", drip)
    monkeypatch.setattr("user_service.security.key_set.FETCH_SECONDS", 0.01)
    for _ in range(5):
        with pytest.raises(Unavailable, match="takes too long"):
            key_set.fetch("https://slow.example/keys")
    assert len(asked) == 1
    answers.set()
    monkeypatch.setattr("user_service.security.key_set.FETCH_SECONDS", 30)
    assert key_set.fetch("https://slow.example/keys") == b"{}"
