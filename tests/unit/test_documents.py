"""The documents say what the code says."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from user_service import __version__
from user_service.database import failures
from user_service.observability.metrics import Metrics
from user_service.settings import Settings
from user_service.web import problems

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "docs", "benchmarks/peers", "benchmarks/results", "deploy/prometheus")
DOCUMENTS = [
    path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))
]
GENERATED = Path("benchmarks/results/README.md")
PAGES = [document for document in DOCUMENTS if document.parts[0] == "docs"]
# Of which the lengths are not those of prose.
REGION = re.compile(r"<!-- benchmark:.*?<!-- /benchmark -->", re.DOTALL)
BLOCK = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def read(document: str | Path) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", read(document)), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower())
        found.append(words.replace(" ", "-"))
    return {f"{each}-{n}" if (n := found[:i].count(each)) else each for i, each in enumerate(found)}


def configuration_table() -> str:
    """Return the documents' table of environment variables."""
    rows = ["| variable | default | what it takes |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined
        default = "" if field.default is None else f"`{str(field.default).lower()}`"
        if isinstance(field.default, str):
            default = f"`{field.default}`"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def problem_table() -> str:
    """Return the documents' table of problem types."""
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.ProblemType)]
    rows = ["| type | status | title |", "|---|---|---|"]
    rows += [f"| `{kind.type}` | {kind.status} | {kind.title} |" for kind in kinds]
    return "\n".join(rows)


def metrics_table() -> str:
    """Return the documents' table of metrics."""
    metrics = Metrics()
    metrics.set_build_info("", "")
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


@pytest.mark.parametrize(
    ("document", "table"),
    [
        ("README.md", configuration_table),
        ("docs/api.md", problem_table),
        ("docs/monitoring.md", metrics_table),
    ],
)
def test_document_has_the_table_that_the_code_makes(
    document: str, table: Callable[[], str]
) -> None:
    assert table() in read(document), f"put this into {document}:\n\n{table()}\n"


def test_every_sqlstate_that_is_classified_is_named() -> None:
    section = read("docs/design.md").split("## Retry\n", 1)[1].split("\n## ", 1)[0]
    for code in failures.TRANSIENT | failures.UNAVAILABLE:
        assert f"`{code}`" in section
    for sqlclass in failures.TRANSIENT_CLASSES | failures.UNAVAILABLE_CLASSES:
        assert f"`{sqlclass}*`" in section


def test_image_and_changelog_have_the_version_of_the_package() -> None:
    dockerfile = ROOT / "services" / "user-service" / "Dockerfile"
    assert f"\nARG VERSION={__version__}\n" in dockerfile.read_text(encoding="utf-8")
    released = re.findall(r"^## ([\d.]+)", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == __version__


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(BLOCK.sub("", read(document))):
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_every_document_is_looked_at() -> None:
    told = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if told.returncode != 0:
        pytest.skip("not a checkout")
    assert {Path(name) for name in told.stdout.split()} <= set(DOCUMENTS)


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each != GENERATED], ids=str)
def test_no_line_of_prose_is_long(document: Path) -> None:
    text = BLOCK.sub("", REGION.sub("", read(document)))
    for line in text.splitlines():
        assert line.startswith("|") or len(re.sub(r"\]\([^)]*\)", "]", line)) <= 120, line


def test_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 400


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_begins_with_whom_it_is_for_and_the_readme_links_to_it(page: Path) -> None:
    _, begins, *_ = read(page).split("\n\n")
    assert begins.startswith("This page is for ")
    assert f"]({page})" in read("README.md")


def test_make_help_lists_every_target() -> None:
    makefile = read("Makefile")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    told = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"^  make (\S+) ", told, re.MULTILINE)) == set(phony.split())
    rules = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    assert rules == set(phony.split())


def test_review_names_only_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", read("REVIEW.md")))
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    for name in named:
        assert re.search(rf"def {name}\b", sources), name
