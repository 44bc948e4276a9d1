"""The parent process of a server: its metrics directory and its children."""

import signal
import sys
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

import serve
from tests.e2e.service import run
from user_service.settings import InvalidSettings


def test_metrics_directory_is_made_and_loses_only_metrics(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert serve.prepare_metrics(directory) == directory
    foreign = ["counter_of_visits.db", "gauge_1.db", "histogram_1.db.old", "notes.txt", "other.db"]
    for name in ("counter_1.db", "gauge_livesum_1.db", "histogram_1.db", *foreign):
        (directory / name).touch()
    serve.prepare_metrics(directory)
    assert sorted(path.name for path in directory.iterdir()) == foreign
    with pytest.raises(SystemExit) as ended:
        serve.prepare_metrics(directory / "notes.txt")
    assert ended.value.code == "user-service: PROMETHEUS_MULTIPROC_DIR: File exists"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql://ada:s3cret@host/users?foo=bar"),
        ("DATABASE_REPLICA_URL", "postgresql://ada:s3cret@host/users?connect_timeout=s3cret"),
        ("REDIS_URL", "redis://:s3cret@host?foo=s3cret"),
        ("REDIS_URL", "redis://:s3cret@host?decode_responses=True"),
        ("REDIS_URL", "redis://:s3cret@host?retry=5"),
        ("REDIS_URL", "redis://:s3cret@host?maint_notifications_config=s3cret"),
        ("REDIS_URL", "redis://:s3cret@host?socket_connect_timeout=-1"),
        ("REDIS_URL", "redis://:s3cret@host?socket_timeout=nan"),
        ("REDIS_URL", "redis://:s3cret@host?socket_timeout=inf"),
        ("REDIS_URL", "redis+cluster://:s3cret@host?socket_timeout=s3cret"),
        ("REDIS_URL", "redis://:s3cret@host?max_connections=-1"),
        ("REDIS_URL", "redis://:s3cret@host?socket_read_size=99999999999999999999"),
        ("REDIS_URL", "rediss+sentinel://:s3cret@host/users?ssl_cert_reqs=s3cret"),
        ("REDIS_URL", "rediss+cluster://:s3cret@host?ssl_min_version=99999"),
        ("REDIS_URL", "rediss://:s3cret@host?ssl_min_version=99999999999999999999"),
        ("REDIS_URL", "rediss://:s3cret@host?ssl_ciphers=s3cret"),
        ("REDIS_URL", "rediss://:s3cret@host?ssl_ca_data=s3cret"),
        ("REDIS_URL", "rediss://:s3cret@host?ssl_keyfile=/s3cret"),
        ("REDIS_URL", "rediss://:s3cret@host?ssl_validate_ocsp=true"),
    ],
)
def test_url_that_a_driver_rejects_is_an_invalid_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(InvalidSettings, match=f"^{name}: ") as raised:
        serve.checked_settings()
    assert "s3cret" not in str(raised.value)


def test_migrations_need_the_role_that_gets_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://host/users")
    monkeypatch.setenv("DATABASE_OWNER_URL", "postgresql://users@host/users")
    monkeypatch.setenv("MIGRATE_ON_START", "false")
    serve.checked_settings()
    monkeypatch.delenv("MIGRATE_ON_START")
    with pytest.raises(InvalidSettings, match=r"^DATABASE_URL: .+ names no role"):
        serve.checked_settings()


@pytest.mark.parametrize(("port", "signals"), [("5000", [(7, signal.SIGHUP)]), ("none", [])])
def test_reload_with_invalid_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture, port: str, signals: list[object]
) -> None:
    monkeypatch.setenv("PORT", port)
    kill = mocker.patch("serve.os.kill")
    serve.reload(7)
    assert [call.args for call in kill.call_args_list] == signals


ORPHANS = """
import os, time, serve
server = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
other = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
time.sleep(0.5)
print(serve.reap(server), serve.reap(server))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none left")
"""


def test_every_child_that_has_ended_is_reaped() -> None:
    # In a process of its own: this one has children of other tests.
    assert run([sys.executable, "-c", ORPHANS], {}).stdout == "7 None\nnone left\n"
