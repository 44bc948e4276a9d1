"""The sessions with curl in the documents are what the service says.

A session follows the comment ``session``, with the settings of its service and, in SEED, its number
of users. With WRITE_SESSIONS set, the documents get the present output: ``make sessions``.
"""

import os
import re
import subprocess

import pytest

from tests.e2e.service import FLASK, Start, run
from tests.programs import ROOT, program

SESSION = re.compile(r"(?<=<!-- session)(.*?) -->\n\n```console\n(.*?)```", re.DOTALL)
# What is another in each session.
VARIES = re.compile(
    r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT|\d{4}-\d\d-\d\dT[\d:.]{15}\+00:00"
    r'|_cursor":"[^"]+"|"1-\d-[0-9a-f]+"|[0-9a-f]{32,40}|dur=[\d.]+|"commit":"\w+"|"version":"[\d.]+"'
)


@pytest.mark.parametrize("page", ["README.md", "docs/api.md", "docs/examples.md"])
def test_session_is_what_the_service_says(
    start: Start, environment: dict[str, str], page: str
) -> None:
    program("curl")
    path = ROOT / page
    written = path.read_text("utf-8")

    def said(match: re.Match[str]) -> str:
        settings = dict(each.split("=", 1) for each in match[1].split())
        with start(**settings) as service:
            if "SEED" in settings:
                seed = [*FLASK, "users", "seed", settings["SEED"]]
                assert run(seed, environment).returncode == 0
            return match[0].replace(match[2], session(match[2], f"127.0.0.1:{service.port}"))

    now = SESSION.sub(said, written)
    if "WRITE_SESSIONS" in os.environ:
        path.write_text(now, "utf-8")
        return
    assert VARIES.sub("", written) == VARIES.sub("", now)


def session(written: str, address: str) -> str:
    """Return the session with the service at ``address`` that has the commands of another one.

    Each output keeps the lines that the other one shows, if that one leaves out some.
    """
    commands = []
    etags: dict[str, str] = {}
    for part in re.split(r"^\$ ", written, flags=re.MULTILINE)[1:]:
        command, _, before = part.rstrip().partition("\n")
        for old, new in etags.items():
            command = command.replace(old, new)
        run = ["bash", "-c", command.replace("localhost:5000", address)]
        output = subprocess.check_output(run, cwd=ROOT, text=True, stderr=subprocess.DEVNULL)
        after = shortened(output.replace("\r", "").rstrip(), before)
        etags |= zip(re.findall("ETag: (.*)", before), re.findall("ETag: (.*)", after), strict=True)
        commands.append(f"$ {command}\n{after}\n")
    return "\n".join(commands)


def shortened(output: str, shown: str) -> str:
    """Return the lines of ``output`` whose kinds ``shown`` has, if dots in it stand for others."""
    if "\n…" not in shown:
        return output
    kinds = {re.split("[ :]", line)[0] for line in shown.splitlines()}
    lines = [line if re.split("[ :]", line)[0] in kinds else "…" for line in output.splitlines()]
    return "\n".join(line for n, line in enumerate(lines) if line != "…" or lines[n - 1] != "…")
