"""``python serve.py [HOST]``: serve on ``HOST`` (every address, unless given) and ``PORT``.

Under gunicorn, or under granian where ``SERVER=granian`` says so.
"""

import os
import sys

from user_service.settings import settings_or_exit


def main(host: str = "0.0.0.0") -> None:
    """Become the server that the settings name."""
    settings = settings_or_exit()
    if settings.server == "gunicorn":
        bind = ["--bind", f"{host}:{settings.port}"]
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "gunicorn.conf.py",
            *bind,
            "app:create_app()",
        ]
        os.execv(sys.executable, command)  # noqa: S606 -- there is no shell to do without
    from granian_server import Server  # noqa: PLC0415 -- for those who use it

    Server(settings, host).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
