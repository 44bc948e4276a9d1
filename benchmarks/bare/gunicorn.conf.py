"""The service's own gunicorn settings, without the hooks that open and close its pools."""

import sys
from pathlib import Path
from runpy import run_path

SERVICE = Path(__file__).resolve().parents[2] / "services" / "user-service"
sys.path.insert(0, str(SERVICE))
_OF_THE_POOLS = {"post_worker_init", "worker_exit"}

globals().update(
    {
        name: value
        for name, value in run_path(str(SERVICE / "gunicorn.conf.py")).items()
        if name not in _OF_THE_POOLS and not name.startswith("__")
    }
)
