"""PostgreSQL's disk is full: the table of users lives on a tmpfs of its own, which is filled."""

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Kind, Operation, Outcome, failures
from tests.faults.harness.stage import Scene, Stage

FILL = (
    "INSERT INTO users (username, username_canonical, email, email_canonical)"
    " SELECT t, t, t, t FROM (SELECT 'filler' || n AS t FROM generate_series(1, 200000) AS n) AS s"
)


@pytest.fixture
def small_disk(stage: Stage, tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MB with a tablespace on it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    server = pwd.getpwnam("nobody")
    options = f"size=4m,uid={server.pw_uid},gid={server.pw_gid},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "small", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    try:
        stage.sql(f"CREATE TABLESPACE small LOCATION '{folder}'")
        yield folder
        stage.reset()  # which drops the table
        stage.sql("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(stage: Stage) -> None:
    """Store users until the disk is full. They are rolled back, but their pages stay taken."""
    with pytest.raises(psycopg2.errors.DiskFull):
        stage.sql(FILL)


def refused_creates(scene: Scene, since: float) -> list[Operation]:
    done = [each for each in scene.load.operations if each.started > since]
    return [each for each in done if each.kind is Kind.CREATE and each.outcome is Outcome.FAILED]


@pytest.mark.slow
@pytest.mark.row("PostgreSQL disk full")
def test_full_disk_refuses_writes_and_serves_reads(
    stage: Stage, row: Row, small_disk: Path
) -> None:
    with stage.scene(row) as scene:
        stage.sql("ALTER TABLE users SET (autovacuum_enabled = off)")
        stage.sql("ALTER TABLE users SET TABLESPACE small")
        indexes = "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'users'::regclass"
        for (index,) in stage.sql(indexes):
            stage.sql(f"ALTER INDEX {index} SET TABLESPACE small")
        time.sleep(0.5)
        with scene.fault():
            fill_disk(stage)
            full_from = time.monotonic()
            while not refused_creates(scene, full_from):  # some pages have room for a create still
                fill_disk(stage)
            time.sleep(2)
            subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    full = [each for each in scene.during() if each.started > full_from]
    creates = [each for each in full if each.kind is Kind.CREATE and each.status != 409]
    reads = [each for each in full if each.kind in (Kind.READ, Kind.LIST)]
    refused = refused_creates(scene, full_from)
    row.note(f"{len(refused)} of {len(creates)} creates refused, {len(reads)} reads served")
    assert failures(reads) == []
    assert "53100" in scene.service.log
    assert "retry 1 of" not in scene.service.log
