"""The credential of the clients, for ``make faults AUTH=on``: every row then holds with it."""

import os
from pathlib import Path

import pytest

from tests.issuer import Issuer, ec_key

IS_ON = os.environ.get("FAULT_AUTHENTICATION") == "on"
ISSUER = Issuer(ec_key("ec"))
HEADERS = {"Authorization": f"Bearer {ISSUER.token(exp=10**10)}"} if IS_ON else {}


def skip_edge() -> None:
    """Skip a test of the edge with the credential."""
    if IS_ON:
        pytest.skip("with authentication the gateway serves no pages")


def settings(folder: Path) -> dict[str, str]:
    """Return the variables of a service that accepts the credential."""
    if not IS_ON:
        return {}
    return {**ISSUER.settings(folder / "keys.json"), "AUTH_PUBLIC": "docs,openapi,metrics,health"}
