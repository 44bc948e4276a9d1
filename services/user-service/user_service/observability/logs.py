"""The log on standard output: ``text`` for people, ``json`` for log collectors."""

import json
import logging
import logging.config
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from user_service.observability import request_id

# Returns the trace id and the span id of the current span, if there is one.
SpanIds = Callable[[], tuple[str, str] | None]

_access_log = logging.getLogger("user_service.access")


class _Tracing:
    span_ids: SpanIds | None = None


def set_span_ids(span_ids: SpanIds | None) -> None:
    """Add the ids that ``span_ids`` returns to every entry, in both formats; None adds none."""
    _Tracing.span_ids = span_ids


def log_request(method: str, route: str, status: int, seconds: float) -> None:
    """Log one request that took so many ``seconds``."""
    milliseconds = round(seconds * 1000, 2)
    fields = {"method": method, "route": route, "status": status, "duration_ms": milliseconds}
    _access_log.info("%s %s %d %.2f ms", *fields.values(), extra={"fields": fields})


class TextFormatter(logging.Formatter):
    """One line: time, logger, level, message and ids; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry for ``record``."""
        message = _on_one_line(record.getMessage())
        line = f"{self.formatTime(record)} - {record.name} - {record.levelname} - {message}"
        if request_id.current() != "-":
            line += f" request_id={request_id.current()}"
        line += "".join(f" {name}={value}" for name, value in _span_fields().items())
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
            **_span_fields(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # orjson refuses lone surrogates and numbers beyond 64 bits
            return json.dumps(entry, default=str)


def _span_fields() -> dict[str, str]:
    ids = _Tracing.span_ids() if _Tracing.span_ids is not None else None
    return {} if ids is None else {"trace_id": ids[0], "span_id": ids[1]}


def _on_one_line(message: str) -> str:
    """Escape line breaks and other unprintable characters: one entry must not look like two."""
    if message.isprintable():
        return message
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in message)


def logging_config(level: str, log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Return the ``logging.config`` dictionary, for the service and for its server."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": {"()": TextFormatter}, "json": {"()": JsonFormatter}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": log_format,
            },
        },
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            # gunicorn gives its logger handlers; the root's is enough.
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
            # The development server logs each request at INFO, and so does the service.
            "werkzeug": {"level": "WARNING" if level == "INFO" else level},
        },
    }


def configure(level: str, log_format: Literal["text", "json"]) -> None:
    """Send the log of the whole process to standard output in ``log_format``."""
    logging.config.dictConfig(logging_config(level, log_format))
