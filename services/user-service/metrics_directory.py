"""The directory in which the server's workers keep their metrics, to be added up by any of them.

The server's master process makes it and names it in the workers' environment; what they do with
it is in ``user_service/observability/metric_files.py``.
"""

import functools
import shutil
import tempfile
import uuid
from pathlib import Path

# In memory, since each request writes there; and writable where the root file system is not.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the name is random and the folder ours alone


class MetricsDirectory:
    """One that was given, and is only emptied; or else one of our own, which goes with us."""

    def __init__(self, given: Path | None) -> None:
        parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        self.path = given or parent / f"user-service-metrics-{uuid.uuid4().hex}"
        self._is_ours = given is None

    def make(self) -> None:
        """Have it, without what an earlier run left."""
        if self._is_ours:
            self.path.mkdir(mode=0o700)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (*self.path.glob("*.db"), *self.path.glob("*.lock")):
            file.unlink()

    def remove(self) -> None:
        """Remove it, if it is ours."""
        if self._is_ours:
            shutil.rmtree(self.path, ignore_errors=True)


@functools.cache
def metrics_directory(given: Path | None) -> MetricsDirectory:
    """Return the same for as long as the master lives, however often it reloads its settings."""
    return MetricsDirectory(given)
