"""gunicorn as Django services commonly run it: threads, so that keep-alive works."""

import gc
import os

bind = [f"127.0.0.1:{os.environ['PORT']}"]
worker_class = "gthread"
threads = 8
keepalive = 75
control_socket_disable = True


def post_worker_init(_: object) -> None:
    """Keep the collector from going through what was there from the start, which halts requests."""
    gc.collect()
    gc.freeze()
