"""The two formats of the log, the line of a request, and the configuration of ``logging``."""

import json
import logging
import logging.config
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.e2e.service import SERVICE
from user_service.observability import request_id
from user_service.observability.logs import (
    JsonFormatter,
    TextFormatter,
    log_request,
    logging_config,
)

TIME = r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2},\d{3}"


@pytest.fixture(autouse=True)
def outside_of_a_request() -> Iterator[None]:
    yield
    request_id.clear()


def record(
    message: str = "hello", *args: object, fields: dict[str, Any] | None = None
) -> logging.LogRecord:
    made = logging.LogRecord("user_service.x", logging.WARNING, __file__, 1, message, args, None)
    if fields is not None:
        made.fields = fields
    return made


def failed(message: str = "it broke") -> logging.LogRecord:
    made = record(message)
    try:
        int("the cause")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def json_line(of: logging.LogRecord) -> Any:
    line = JsonFormatter().format(of)
    assert len(line.splitlines()) == 1
    return json.loads(line)


class TestText:
    def test_is_time_name_level_message_and_request(self) -> None:
        line = TextFormatter().format(record("%s and %d", "one", 2))
        assert re.fullmatch(f"{TIME} - user_service.x - WARNING - one and 2", line)
        request_id.begin("abc")
        assert TextFormatter().format(record()).endswith(" - WARNING - hello request_id=abc")

    def test_has_the_traceback_after_the_line(self) -> None:
        request_id.begin("abc")
        lines = TextFormatter().format(failed()).splitlines()
        assert lines[0].endswith("it broke request_id=abc")
        assert lines[1].startswith("Traceback")
        assert lines[-1].endswith(": 'the cause'")

    @pytest.mark.parametrize(
        ("message", "written"),
        [
            ("ERROR:  x\nLINE 1: y\r\n\t^", r"ERROR:  x\nLINE 1: y\r\n\t^"),
            ("\x1b[31mred", r"\x1b[31mred"),
            ("\x85\u2028\u2029\x0b\x0c\x1c", r"\x85\u2028\u2029\x0b\x0c\x1c"),
            ("file\udcff.txt", r"file\udcff.txt"),
            ("Zoë, 名前 and \\", "Zoë, 名前 and \\"),
        ],
    )
    def test_message_stays_on_one_line(self, message: str, written: str) -> None:
        line = TextFormatter().format(record("%s", message))
        assert line.endswith(f" - WARNING - {written}")
        assert line.isprintable()


def test_request_has_a_line_in_either_format(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        log_request("GET", "/api/v1/users", 200, 0.0015)
    (entry,) = caplog.records
    message = "GET /api/v1/users 200 1.50 ms"
    assert TextFormatter().format(entry).endswith(f" - user_service.access - INFO - {message}")
    line = json_line(entry)
    del line["timestamp"]
    assert list(line.items()) == [
        ("level", "INFO"),
        ("logger", "user_service.access"),
        ("message", message),
        ("request_id", "-"),
        ("method", "GET"),
        ("route", "/api/v1/users"),
        ("status", 200),
        ("duration_ms", 1.5),
    ]


class TestJson:
    def test_has_these_members(self) -> None:
        request_id.begin("abc")
        of = record("%s and %d", "one", 2, fields={"bytes": b"x", "number": 2**64})
        line = json_line(of)
        written = datetime.fromisoformat(line.pop("timestamp"))
        assert written.utcoffset() == timedelta(0)
        assert written.timestamp() == pytest.approx(of.created, abs=1e-5)
        assert list(line.items()) == [
            ("level", "WARNING"),
            ("logger", "user_service.x"),
            ("message", "one and 2"),
            ("request_id", "abc"),
            ("bytes", "b'x'"),  # JSON has none
            ("number", 2**64),
        ]

    @pytest.mark.parametrize(
        "message", ["one\r\ntwo", "\x1b[31m", "\u2028", "\x85", "\x0b\x0c\x1c", '"\\']
    )
    def test_message_is_kept_and_stays_on_one_line(self, message: str) -> None:
        line = JsonFormatter().format(record("%s", message))
        assert not set("\r\n\x1b") & set(line)
        assert orjson.loads(line)["message"] == message

    @pytest.mark.parametrize("message", ["it broke", "\ud800"])
    def test_traceback_is_a_member_on_the_same_line(self, message: str) -> None:
        line = json_line(failed(message))
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith(": 'the cause'")

    @pytest.mark.parametrize(
        "value",
        [
            "a lone \ud800 surrogate",
            -(2**70),
            float("nan"),
            {"nested": ["\udfff", 2**64]},
            {1: "a number for a name", None: "nothing for a name"},
            {"\ud800": "a lone surrogate for a name"},
            {1, 2, 3},
            object,
        ],
        ids=ascii,
    )
    def test_line_is_never_lost_for_what_is_in_it(self, value: object) -> None:
        line = json_line(record("%s", value, fields={"value": value}))
        assert line["level"] == "WARNING"
        assert "value" in line
        assert JsonFormatter().format(record("%s", value)).isascii()


LOGGING = """
import logging, sys
from user_service.observability.logs import configure
configure("INFO", "text")
log = logging.getLogger("user_service")
for line in sys.stdin:
    exec(line)
    print("done", file=sys.stderr, flush=True)
"""


class TestPipe:
    @pytest.fixture
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process that executes the lines it is sent and whose log goes to a pipe."""
        command = [sys.executable, "-c", LOGGING]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=SERVICE, stdin=pipe, stdout=pipe, stderr=pipe
        ) as started:
            yield started
            started.kill()

    def execute(self, process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin
        assert process.stderr
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        assert process.stderr.readline() == b"done\n"

    def test_stalled_reader_costs_entries_and_blocks_nothing(
        self, process: subprocess.Popen[bytes]
    ) -> None:
        self.execute(process, "log.info('first')")
        self.execute(process, "log.info('x' * 2_000_000)")  # more than the pipe holds
        self.execute(process, "log.info('dropped')")
        assert process.stdin
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        first, cut_off = process.stdout.read().split(b"\n")
        os.set_blocking(process.stdout.fileno(), True)
        assert first.endswith(b"first")
        assert cut_off.endswith(b"xxx")
        self.execute(process, "log.info('after')")
        process.stdin.close()
        end_of_cut_off, after, nothing = process.stdout.read().split(b"\n")
        assert after.endswith(b"after")
        assert end_of_cut_off == nothing == b""

    def test_entries_without_a_reader_are_dropped(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        process.stdout.close()
        self.execute(process, "log.info('dropped')")


def test_werkzeug_does_not_log_the_requests_that_the_service_logs() -> None:
    assert logging_config("INFO", "text")["loggers"]["werkzeug"]["level"] == "WARNING"
    assert logging_config("DEBUG", "text")["loggers"]["werkzeug"]["level"] == "DEBUG"
