"""What the libraries do alone, in a loop on the core of the services: nothing can be faster.

Run as a script, since it measures its own process: a job comes as JSON on stdin, figures go out.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import redis


def alone(job: Mapping[str, Any], cpu: int | None) -> dict[str, dict[str, float]]:
    """Return the figures of each loop of ``job``: how often a second, ms each, CPU µs each."""
    command = [sys.executable, __file__]
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    text = json.dumps(dict(job))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    figures: dict[str, dict[str, float]] = json.loads(done.stdout)
    return figures


def loop(call: Callable[[int], object], seconds: float) -> dict[str, float]:
    """Call again and again, with another number each time."""
    for number in range(20):
        call(-1 - number)
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < seconds:
        call(count)
        count += 1
    used = time.process_time() - cpu
    return {
        "per_second": count / elapsed,
        "ms": elapsed / count * 1000,
        "cpu_us": used / count * 1e6,
    }


def statements(job: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Loop over each list of statements, on one connection in autocommit mode."""
    connection = psycopg2.connect(job["database_url"])
    connection.autocommit = True
    cursor = connection.cursor()
    unique = f"{time.time_ns():x}"

    def run(texts: list[str], number: int) -> None:
        for text in texts:
            cursor.execute(text.replace(job["unique"], f"{unique}y{number + 20}"))
            if cursor.description:
                cursor.fetchall()

    return {
        name: loop(lambda number, texts=texts: run(texts, number), job["seconds"])  # type: ignore[misc]
        for name, texts in job["statements"].items()
    }


def redis_reads(job: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Loop over reading keys by redis-py, and over the same bytes on a bare socket."""
    client = redis.Redis.from_url(job["redis_url"])
    figures = {"redis-py": loop(lambda _: client.mget(job["keys"]), job["seconds"])}
    size = sum(len(value or b"") for value in client.mget(job["keys"]))
    with _bare_connection(job["redis_url"]) as connection:
        words = ["MGET", *job["keys"]]
        asked = b"*%d\r\n" % len(words) + b"".join(
            b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words
        )

        def ask(_: int) -> None:
            connection.sendall(asked)
            received, tail = 0, b""
            while received < size or not tail.endswith(b"\r\n"):
                tail = connection.recv(65536)
                received += len(tail)

        figures["socket"] = loop(ask, job["seconds"])
    return figures


def connects(job: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Loop over connecting, to PostgreSQL and to Redis, and closing again."""

    def connect_to_redis(_: int) -> None:
        client = redis.Redis.from_url(job["redis_url"])
        connection = client.connection_pool.get_connection()
        connection.disconnect()

    return {
        "postgres": loop(lambda _: psycopg2.connect(job["database_url"]).close(), job["seconds"]),
        "redis": loop(connect_to_redis, job["seconds"]),
    }


def _bare_connection(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    database = parts.path.removeprefix("/") or "0"
    for line in (f"AUTH {parts.password}", f"SELECT {database}"):
        connection.sendall(f"{line}\r\n".encode())
        connection.recv(100)
    return connection


KINDS = {"statements": statements, "redis": redis_reads, "connect": connects}

if __name__ == "__main__":
    asked_for = json.load(sys.stdin)
    print(json.dumps(KINDS[asked_for["kind"]](asked_for)))
