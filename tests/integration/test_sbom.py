"""`make sbom`: the bill of materials names what the image installs."""

import json
import re
from pathlib import Path

from tests.programs import ROOT, make


def test_lists_every_package_of_the_lock_file(tmp_path: Path) -> None:
    target = tmp_path / "sbom.json"
    assert make("sbom", f"TARGET={target}") == ""
    bill = json.loads(target.read_text(encoding="utf-8"))
    lock = (ROOT / "services/user-service/requirements.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", lock, re.MULTILINE))
    assert {(each["name"], each["version"]) for each in bill["components"]} == locked
    assert bill["bomFormat"] == "CycloneDX"
    assert all("hashes" in str(each["externalReferences"]) for each in bill["components"])
