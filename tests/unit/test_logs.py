"""The two formats of the log, the line of a request, and the configuration of ``logging``."""

import json
import logging
import os
import re
import socket
import sys
import tty
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.waiting import eventually
from user_service.observability import request_id
from user_service.observability.logs import (
    JsonFormatter,
    NonBlockingStream,
    TextFormatter,
    log_request,
    logging_config,
)

TIME = r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2},\d{3}"


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("user_service.x", logging.WARNING, __file__, 1, "%s", (message,), None)


def failed(message: str) -> logging.LogRecord:
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


def test_request_has_a_line_in_either_format(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), request_id.of_request("abc"):
        log_request("GET", "/api/v1/users", 200, 0.0015)
        (entry,) = caplog.records
        text, line = TextFormatter().format(entry), json_line(entry)
    message = "GET /api/v1/users 200 1.50 ms"
    assert re.fullmatch(f"{TIME} - user_service.access - INFO - {message} request_id=abc", text)
    written = datetime.fromisoformat(line.pop("timestamp"))
    assert written.utcoffset() == timedelta(0)
    assert written.timestamp() == pytest.approx(entry.created, abs=1e-5)
    assert list(line.items()) == [
        ("level", "INFO"),
        ("logger", "user_service.access"),
        ("message", message),
        ("request_id", "abc"),
        ("method", "GET"),
        ("route", "/api/v1/users"),
        ("status", 200),
        ("duration_ms", 1.5),
    ]


class TestText:
    def test_has_the_traceback_after_the_line(self) -> None:
        lines = TextFormatter().format(failed("it broke")).splitlines()
        assert re.fullmatch(f"{TIME} - user_service.x - WARNING - it broke", lines[0])
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
        line = TextFormatter().format(record(message))
        assert line.endswith(f" - WARNING - {written}")
        assert line.isprintable()


class TestJson:
    @pytest.mark.parametrize(
        "message", ["one\r\ntwo", "\x1b[31m", "\u2028", "\x85", "\x0b\x0c\x1c", '"\\']
    )
    def test_message_is_kept_and_stays_on_one_line(self, message: str) -> None:
        line = JsonFormatter().format(record(message))
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
            *("a lone \ud800 surrogate", -(2**70), float("nan"), b"bytes", {1, 2, 3}, object),
            {"nested": ["\udfff", 2**64]},
            {1: "a number for a name", None: "nothing for a name"},
            {"\ud800": "a lone surrogate for a name"},
        ],
        ids=ascii,
    )
    def test_line_is_never_lost_for_what_is_in_it(self, value: object) -> None:
        entry = record(str(value))
        entry.fields = {"value": value}
        line = json_line(entry)
        assert line["level"] == "WARNING"
        assert "value" in line
        assert JsonFormatter().format(record(str(value))).isascii()


def sockets() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def terminal() -> tuple[int, int]:
    reader, writer = os.openpty()
    tty.setraw(writer)
    return reader, writer


@pytest.mark.parametrize("ends", [os.pipe, sockets, terminal])
def test_stalled_reader_costs_entries_and_blocks_nothing(
    ends: Callable[[], tuple[int, int]],
) -> None:
    reader, writer = ends()
    os.set_blocking(reader, False)
    stream, output = NonBlockingStream(writer), bytearray()
    for entry in ("first\n", "x" * 2_000_000 + "\n", "dropped\n"):  # more than there is room for
        stream.write(entry)

    def is_read_again() -> bool:
        stream.write("after\n")
        with suppress(BlockingIOError):
            while part := os.read(reader, 2_000_000):
                output.extend(part)
        return output.endswith(b"\nafter\n")

    eventually(is_read_again)
    first, cut_off, *others = bytes(output).splitlines()
    assert (first, cut_off.strip(b"x")) == (b"first", b"")
    assert len(cut_off) < 2_000_000
    # A terminal has room again before it is read.
    assert set(others) <= {b"after", b"dropped"}
    os.close(reader)
    stream.write("without a reader\n")
    os.close(writer)


def test_werkzeug_does_not_log_the_requests_that_the_service_logs() -> None:
    assert logging_config("INFO", "text")["loggers"]["werkzeug"]["level"] == "WARNING"
    assert logging_config("DEBUG", "text")["loggers"]["werkzeug"]["level"] == "DEBUG"
