"""Logging in two formats, to standard output: ``text`` for people, ``json`` for collectors."""

import json
import logging
import logging.config
import time
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import orjson

from user_service.observability import request_id

TEXT_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class AccessRecord(logging.LogRecord):
    """The record of a request, at INFO, with ``fields`` also as the arguments of its message.

    Without what LogRecord finds out about threads, processes and the line of code, which no format
    here shows: that halves the cost of a line (in one run: 8 us instead of 17).
    """

    _EMPTY: ClassVar = vars(
        logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO", "lineno": 0})
    )

    def __init__(self, name: str, message: str, fields: dict[str, Any]) -> None:
        created = time.time()
        vars(self).update(
            self._EMPTY,
            name=name,
            created=created,
            msecs=created % 1 * 1000,
            msg=message,
            args=tuple(fields.values()),
            fields=fields,
        )


class TextFormatter(logging.Formatter):
    """``TEXT_FORMAT``, with the request id at the end of what is said during a request."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """Return the line for ``record``, before any traceback."""
        identifier = request_id.current()
        suffix = "" if identifier == "-" else f" request_id={identifier}"
        return super().formatMessage(record) + suffix


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the request id and what the caller put into ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for ``record``, without a line break."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.current(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, a number beyond 64 bits: better escaped than lost
            return json.dumps(line, default=str)


def logging_config(level: str, log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Return the ``logging.config`` dictionary, for the service and for the server before it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": TextFormatter},
            "json": {"()": JsonFormatter},
        },
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": log_format,
            },
        },
        "root": {"level": level, "handlers": ["stdout"]},
        # gunicorn's and werkzeug's loggers bring handlers of their own; the root's is enough.
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
            "werkzeug": {"level": "WARNING" if level == "INFO" else level},
        },
    }


def configure(level: str, log_format: Literal["text", "json"]) -> None:
    """Send the log of the whole process to standard output in ``log_format``."""
    logging.config.dictConfig(logging_config(level, log_format))
