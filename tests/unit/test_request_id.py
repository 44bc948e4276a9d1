"""The request id: the client's if it can stand in a log line, or else a fresh one.

``tests/integration/test_malformed.py`` sends others that are refused.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from user_service.observability import request_id


@pytest.mark.parametrize("offered", ["a", "-", "_", "a" * 64, "Trace_1-2"])
def test_plain_one_is_kept_in_its_own_thread(offered: str) -> None:
    with request_id.of_request(offered) as given, ThreadPoolExecutor(1) as thread:
        assert given == request_id.current() == offered
        assert thread.submit(request_id.current).result() == "-"
    assert request_id.current() == "-"
