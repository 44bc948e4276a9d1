"""The log: ``text`` for people, ``json`` for log collectors."""

import fcntl
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

from user_service.observability import request_id

# Of the buffer of a pipe: its reader may fall so far behind before entries are dropped. By default,
# Linux allows no more without privileges.
PIPE_BYTES = 1 << 20

_access_log = logging.getLogger("user_service.access")


class _Tracing:
    span_ids: Callable[[], Mapping[str, str]] = dict


def set_span_ids(span_ids: Callable[[], Mapping[str, str]]) -> None:
    """Add the ids that ``span_ids`` returns, by their names, to every entry in both formats."""
    _Tracing.span_ids = span_ids


def log_request(
    method: str, route: str, status: int, seconds: float, principal: str | None = None
) -> None:
    """Log one request that took so many ``seconds``; None while authentication is off."""
    milliseconds = round(seconds * 1000, 2)
    fields = {"method": method, "route": route, "status": status, "duration_ms": milliseconds}
    message = "%s %s %d %.2f ms"
    if principal is not None:
        fields["principal"] = principal
        message += " principal=%s"
    _access_log.info(message, *fields.values(), extra={"fields": fields})


class TextFormatter(logging.Formatter):
    """One line: time, logger, level, message and ids; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry for ``record``."""
        message = record.getMessage()
        if not message.isprintable():  # a line break would make two entries of one
            message = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in message)
        line = f"{self.formatTime(record)} - {record.name} - {record.levelname} - {message}"
        identifier = request_id.current()
        if identifier != "-":
            line += f" request_id={identifier}"
        line += "".join(f" {name}={value}" for name, value in _Tracing.span_ids().items())
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object on a line, with the ids and the ``fields`` of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry for ``record``, without a line break."""
        entry: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.current(),
            **_Tracing.span_ids(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # orjson refuses lone surrogates and numbers beyond 64 bits
            return json.dumps(entry, default=str)


class NonBlockingStream:
    """A stream to a pipe, terminal, socket or file; it drops entries while there is no room.

    A log collector that stalls would otherwise stop every request, and on a full disk each entry
    would cost a traceback.
    """

    def __init__(self, file: int) -> None:
        mode = os.fstat(file).st_mode
        # A socket cannot be opened again, and a file would be written from its beginning.
        if stat.S_ISSOCK(mode) or stat.S_ISREG(mode):
            self._file = os.dup(file)
            os.set_blocking(self._file, False)
        else:
            # A second open file, because O_NONBLOCK affects all programs that share an open file.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            self._file = os.open(f"/proc/self/fd/{file}", flags)
        with suppress(OSError):  # no pipe, or the limits of the system are lower
            fcntl.fcntl(self._file, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._separator = b""

    def write(self, entry: str) -> None:
        """Write an entry at once or not at all; a long one may be cut off."""
        with suppress(OSError):
            line = self._separator + entry.encode(errors="backslashreplace")
            self._separator = b"" if os.write(self._file, line) == len(line) else b"\n"


def log_handler(stream: TextIO) -> "logging.StreamHandler[TextIO | NonBlockingStream]":
    """Return the handler for a standard stream. It never waits, except for a disk."""
    with suppress(AttributeError, OSError):  # closed, not a file, or a system without /proc
        return logging.StreamHandler(NonBlockingStream(stream.fileno()))
    return logging.StreamHandler(stream)


def logging_config(
    level: str, log_format: Literal["text", "json"], stream: str = "stdout"
) -> dict[str, Any]:
    """Return the ``logging.config`` dictionary, for the service and for its server.

    ``stream`` is ``stdout`` or ``stderr``.
    """
    handler = {"()": log_handler, "stream": f"ext://sys.{stream}", "formatter": log_format}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": {"()": TextFormatter}, "json": {"()": JsonFormatter}},
        "handlers": {stream: handler},
        "root": {"level": level, "handlers": [stream]},
        "loggers": {
            # gunicorn gives its logger handlers; the root's is enough. At DEBUG, it would quote the
            # header of a client that hangs up.
            "gunicorn.error": {
                "level": "INFO" if level == "DEBUG" else level,
                "handlers": [],
                "propagate": True,
            },
            # The development server logs each request at INFO, and so does the service.
            "werkzeug": {"level": "WARNING" if level == "INFO" else level},
            # These warnings quote headers of clients, and OTEL_EXPORTER_OTLP_HEADERS.
            "opentelemetry.trace": {"level": "ERROR"},
            "opentelemetry.util": {"level": "ERROR"},
        },
    }
