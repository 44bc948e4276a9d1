"""PgBouncer for tests, which are skipped without it."""

from collections.abc import Mapping
from pathlib import Path

from dev import pgbouncer
from tests.programs import program


class PgBouncer(pgbouncer.PgBouncer):
    """PgBouncer in transaction mode, with few sessions unless ``options`` ask for more."""

    def __init__(
        self, data_dir: Path, database_url: str, *, options: Mapping[str, str] | None = None
    ) -> None:
        program("pgbouncer")
        super().__init__(
            data_dir, database_url, options={"default_pool_size": "2", **(options or {})}
        )
