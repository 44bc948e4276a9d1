"""The documents say what the code says."""

import re
import subprocess
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from user_service import __version__
from user_service.database import failures
from user_service.observability.metrics import Metrics
from user_service.settings import Settings
from user_service.web import problems

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    path.relative_to(ROOT) for folder in (".", "docs") for path in (ROOT / folder).glob("*.md")
]


def configuration_table() -> str:
    """Return the README's table of environment variables."""
    rows = ["| variable | default | what it takes |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined
        default = "" if field.default is None else f"`{str(field.default).lower()}`"
        if isinstance(field.default, str):
            default = f"`{field.default}`"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def problem_table() -> str:
    """Return the README's table of problem types."""
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.ProblemType)]
    rows = ["| type | status | title |", "|---|---|---|"]
    rows += [f"| `{kind.type}` | {kind.status} | {kind.title} |" for kind in kinds]
    return "\n".join(rows)


def metrics_table() -> str:
    """Return the README's table of metrics."""
    metrics = Metrics()
    metrics.tell_build("", "")
    metrics.http.observe("/", "GET", 200, 0)
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for family in metrics.registry.collect():
        names = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        labels = ", ".join(f"`{name}`" for name in names)
        total = "_total" if family.type == "counter" else ""
        rows.append(
            f"| `{family.name}{total}` | {family.type} | {labels} | {family.documentation} |"
        )
    return "\n".join(rows)


@pytest.mark.parametrize("table", [configuration_table, problem_table, metrics_table])
def test_readme_has_the_table_that_the_code_makes(table: object) -> None:
    assert callable(table)
    assert table() in README, f"put this into README.md:\n\n{table()}\n"


def test_readme_names_every_sqlstate_that_is_classified() -> None:
    section = README.split("### Retry", 1)[1].split("\n### ", 1)[0]
    for code in failures.TRANSIENT | failures.UNAVAILABLE:
        assert f"`{code}`" in section
    for sqlclass in failures.TRANSIENT_CLASSES | failures.UNAVAILABLE_CLASSES:
        assert f"`{sqlclass}*`" in section


def test_image_and_changelog_have_the_version_of_the_package() -> None:
    dockerfile = ROOT / "services" / "user-service" / "Dockerfile"
    assert f"\nARG VERSION={__version__}\n" in dockerfile.read_text(encoding="utf-8")
    released = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released[0] == __version__


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    told = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"^  make (\S+) ", told, re.MULTILINE)) == set(phony.split())
    rules = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    assert rules == set(phony.split())


def test_review_names_only_tests_that_exist() -> None:
    review = (ROOT / "REVIEW.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", review))
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    for name in named:
        assert re.search(rf"def {name}\b", sources), name
