"""The service behind the edge, as one target: ``python -m benchmarks.edge``.

nginx runs in its image, with one worker process on the first core that this process may use.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import redis

from tests.e2e.edge import edge, permit
from tests.e2e.service import running


def main() -> None:
    """Serve at PORT until SIGTERM; with TLS if LISTEN is ``ssl``."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    listen = f"listen 127.0.0.1:{os.environ['PORT']} {os.environ.get('LISTEN', '')};"
    core = min(os.sched_getaffinity(0))
    # The edge reads database 0, hence a prefix of its own instead of a database.
    redis_url = os.environ["REDIS_URL"].rpartition("/")[0] + "/0"
    environment = {
        name: os.environ[name] for name in ("DATABASE_URL", "WEB_CONCURRENCY", "DRAIN_DELAY")
    }
    environment |= {"REDIS_URL": redis_url, "GATEWAY_PAGES": "true", "LOG_FORMAT": "json"}
    changes = {
        "worker_processes 2;": f"worker_processes 1; worker_cpu_affinity {1 << core:b};",
        # As the output of every target.
        "access_log /dev/stdout json;": "access_log /dev/null json;",
        "# Metrics are for operators": f"{listen}\n# Metrics are for operators",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        redis.Redis.from_url(redis_url) as client,
        running(Path(folder) / "log", environment) as service,
    ):
        permit(client)
        with edge(Path(folder) / "edge", service.port, urlsplit(redis_url).port or 6379, changes):
            signal.pause()


if __name__ == "__main__":
    main()
