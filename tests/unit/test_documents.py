"""The documents agree with the code."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from app import create_app
from tests.programs import ROOT, shell
from user_service import __version__
from user_service.database import failures
from user_service.observability.metrics import Metrics
from user_service.settings import Settings
from user_service.web.openapi.document import document

FOLDERS = (".", "docs", "docs/decisions", "benchmarks/peers", "deploy/prometheus")
DOCUMENTS = [
    path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))
]
INDEX = Path("docs/README.md")
PAGES = [page for page in DOCUMENTS if page.parent == INDEX.parent and page != INDEX]
# Generated, so that the limit of a line does not apply.
REGION = re.compile(r"<!-- benchmark:.*?<!-- /benchmark -->", re.DOTALL)
BLOCK = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def read(page: str | Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", read(page)), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower())
        found.append(words.replace(" ", "-"))
    return {f"{each}-{n}" if (n := found[:i].count(each)) else each for i, each in enumerate(found)}


def configuration_table() -> str:
    """Return the documents' table of environment variables."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        values = field.default
        text = ",".join(values) if isinstance(values, tuple) else str(values)
        default = f"`{text.lower() if isinstance(field.default, bool) else text}`"
        if field.default in (None, (), frozenset()):
            default = ""
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def problem_table() -> str:
    """Return the documents' table of problem types, from the examples in the OpenAPI document."""
    app = create_app(Settings(auth_api_keys=True))
    examples = [each["value"] for each in document(app)["components"]["examples"].values()]
    types = {(each["status"], each["type"], each["title"]) for each in examples}
    rows = ["| type | status | title |", "|---|---|---|"]
    rows += [
        f"| `{kind}` | {status} | {title} |"
        for status, kind, title in sorted(types)
        if kind.startswith("urn:")
    ]
    return "\n".join(rows)


def metrics_table() -> str:
    """Return the documents' table of metrics."""
    metrics = Metrics()
    metrics.set_build_info("", "")
    metrics.observe("/", "GET", 200, 0)
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for family in metrics.collector.collect():
        names = {name: None for sample in family.samples for name in sample.labels if name != "le"}
        labels = ", ".join(f"`{name}`" for name in names)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("docs/configuration.md", configuration_table),
        ("docs/api.md", problem_table),
        ("docs/monitoring.md", metrics_table),
    ],
)
def test_page_has_the_table_that_the_code_makes(page: str, table: Callable[[], str]) -> None:
    assert table() in read(page), f"put this into {page}:\n\n{table()}\n"


def test_compose_takes_every_setting_but_these_from_the_shell() -> None:
    names = set(read("deploy/settings-of-shell.env").splitlines())
    assert {name.upper() for name in Settings.model_fields} - names == {
        # Of Compose and of the image.
        *("PORT", "MIGRATE_ON_START", "REDIS_HOST", "GIT_COMMIT"),
        *("TRUSTED_PROXIES", "RATE_LIMIT_SUBJECT_HEADER"),
        # The servers, which a shell may name for another purpose.
        *("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_REPLICA_URL", "REDIS_URL", "REDIS_PORT"),
        *("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"),
        # A name of shells, and those of other ways to start the service.
        *("HOST", "FLASK_ENV", "PROMETHEUS_MULTIPROC_DIR"),
    }


def test_every_sqlstate_that_is_classified_is_named() -> None:
    section = read("docs/design.md").split("## Retry\n", 1)[1].split("\n## ", 1)[0]
    codes = [code if len(code) > len("08") else f"{code}*" for code in failures.MEANINGS]
    assert [code for code in codes if f"`{code}`" not in section] == []


def test_image_and_changelog_have_the_version_of_the_package() -> None:
    assert f"\nARG VERSION={__version__}\n" in read("services/user-service/Dockerfile")
    released = re.findall(r"^## ([\d.]+)", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == __version__


@pytest.mark.parametrize("page", DOCUMENTS, ids=str)
def test_links_within_the_project_lead_somewhere_and_no_line_of_prose_is_long(page: Path) -> None:
    for target, anchor in LINK.findall(BLOCK.sub("", read(page))):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"
    for line in BLOCK.sub("", REGION.sub("", read(page))).splitlines():
        assert line.startswith("|") or len(re.sub(r"\]\([^)]*\)", "]", line)) <= 120, line


def test_dump_before_an_upgrade_names_the_database() -> None:
    """PostgreSQL's container of release 1.0.0 lacks PGDATABASE, and would dump an empty one."""
    text = "".join(map(read, DOCUMENTS))
    assert set(re.findall("postgres pg_dump (.*?) >", text)) == {"--format custom users"}


def test_readme_has_at_most_1500_words() -> None:
    assert len(read("README.md").split()) <= 1500


def test_ci_runs_what_the_readme_promises() -> None:
    readme, workflow = read("README.md"), read(".github/workflows/ci.yml")
    (versions,) = re.findall(r"^ +python: (\[.+\])$", workflow, re.MULTILINE)
    first, *_, last = json.loads(versions)
    assert f"| Linux with glibc | Python {first} to {last} |" in readme
    (programs,) = re.findall(r"skipped where these are missing:\n((?:.|\n)+?) \(with Node", readme)
    for name in set(re.findall(r"`([\w-]+)`", programs)) - {"nginx"}:
        assert name in read(".ci/run"), name


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_names_its_readers_and_the_index_links_to_it(page: Path) -> None:
    _, begins, *_ = read(page).split("\n\n")
    assert begins.startswith("This page is for ")
    assert f"]({page.name})" in read(INDEX)


def test_make_help_lists_every_target() -> None:
    makefile = read("Makefile")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    told = re.findall(r"^  make (\S+) ", shell("make", "help"), re.MULTILINE)
    assert set(told) == set(phony.split())
    rules = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    assert rules == set(phony.split())


@pytest.mark.parametrize("page", ["REVIEW.md", "SECURITY.md"])
def test_page_names_tests_that_exist(page: str) -> None:
    proofs = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", read(page))
    assert len(proofs) == len(re.findall(r"`test_", read(page))) > 0
    for name, file in proofs:
        assert re.search(rf"def {name}\b", read(file)), name
