"""Imports point one way, and each foreign library has one place (README, "How it works").

``app -> web -> {database, cache} -> {resilience, observability} -> core``
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "services" / "user-service"

# Whom each part may import, beside itself. Siblings are not in each other's sets.
CORE = {"errors", "domain", "recent"}
POLICIES = CORE | {"resilience", "observability"}
ADAPTERS = POLICIES | {"database", "cache"}
MAY_IMPORT: dict[str, set[str]] = {
    "user_service": set(),
    "settings": set(),
    "errors": {"domain"},
    "domain": set(),
    "recent": set(),
    "resilience": CORE,
    "observability": CORE,
    "database": POLICIES,
    "cache": POLICIES,
    "web": ADAPTERS | {"user_service"},
    "app": ADAPTERS | {"user_service", "web", "settings"},
}
# What each library may be imported by; the others are free.
LIBRARIES = {
    "gunicorn": {"app"},
    "gevent": {"app"},
    "granian": {"app"},
    "flask": {"app", "web"},
    "werkzeug": {"app", "web"},
    "psycopg2": {"database"},
    "redis": {"cache", "user_service.web.policies.rate_limiter"},
    "limits": {"web"},
    "opentelemetry": {"observability"},
}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}


def part_of(name: str) -> str:
    """Return the part that ``name`` belongs to; the modules beside the package make up ``app``."""
    match name.split("."):
        case ["user_service", part, *_] if part in MAY_IMPORT:
            return part
        case ["user_service", *_]:
            return "user_service"
        case _:
            return "app"


def violations(module: str, source: str) -> list[str]:
    """Return what in ``source`` breaks the rules, one line each."""
    importer, tree = part_of(module), ast.parse(source)
    broken = [f"imports {name}" for name in imported(tree) if not may_import(module, name)]
    if importer != "settings":
        broken += [f"reads {name}" for name in environment_reads(tree)]
    return broken


def may_import(module: str, name: str) -> bool:
    importer = part_of(module)
    library = name.partition(".")[0]
    if library == "user_service":
        return part_of(name) in MAY_IMPORT[importer] | {importer}
    return bool({importer, module} & LIBRARIES.get(library, {importer}))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of what is imported at run time, inside of functions too."""
    for node in run_time_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not understood here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield ``node`` and what is in it, but for what only a type checker reads."""
    yield node
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
            children: Iterable[ast.AST] = otherwise
        case _:
            children = ast.iter_child_nodes(node)
    for child in children:
        yield from run_time_nodes(child)


def environment_reads(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT:
            yield ast.unparse(node)
    yield from (name for name in imported(tree) if name in ENVIRONMENT)


def modules() -> dict[str, Path]:
    files = [*SERVICE.glob("*.py"), *(SERVICE / "user_service").rglob("*.py")]
    return {
        ".".join(file.relative_to(SERVICE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


@pytest.mark.parametrize("module", modules())
def test_module_keeps_to_the_rules(module: str) -> None:
    assert violations(module, modules()[module].read_text(encoding="utf-8")) == []


def test_every_part_is_in_the_picture() -> None:
    inside = {module.split(".")[1] for module in modules() if module.startswith("user_service.")}
    assert inside == MAY_IMPORT.keys() - {"user_service", "app"}
    assert {"app", "serve", "gunicorn.conf", "granian_server", "user_service"} <= modules().keys()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("user_service.domain.user", "from user_service.errors import InvalidInput"),
        ("user_service.resilience.retry", "from user_service.observability import logs"),
        ("user_service.observability.logs", "import user_service.resilience.deadline"),
        ("user_service.resilience.retry", "from user_service.database.pool import Database"),
        (
            "user_service.database.user_repository",
            "from user_service.cache.page_cache import PageCache",
        ),
        ("user_service.cache.page_cache", "from user_service import database"),
        ("user_service.database.pool", "from user_service.web.services import services"),
        ("user_service.web.api.users", "from user_service.settings import Settings"),
        ("user_service.settings", "from user_service.domain.user import User"),
        ("user_service", "from user_service.web import api"),
        ("user_service.database.pool", "from flask import g"),
        ("user_service.domain.user", "import flask"),
        ("user_service.cache.page_cache", "from werkzeug.local import Local"),
        ("user_service.web.api.users", "from psycopg2.errors import UniqueViolation"),
        ("user_service.web.api.health", "def health():\n    import psycopg2.extensions"),
        ("app", "import psycopg2"),
        ("user_service.web.api.health", "import granian"),
        ("user_service.database.wait", "from gevent import select"),
        ("user_service.observability.logs", "def configure():\n    import gunicorn.glogging"),
        ("gunicorn.conf", "import redis"),
        ("user_service.web.policies.rate_limits", "from redis import Redis"),
        ("user_service.database.pool", "from opentelemetry import trace"),
        ("gunicorn.conf", "import os\nport = os.environ['PORT']"),
        ("app", "import os\nport = os.getenv('PORT')"),
        ("user_service.cache.connection", "from os import environ"),
        ("user_service.web.api.users", "if TYPE_CHECKING:\n    pass\nelse:\n    import redis"),
    ],
)
def test_violation_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app", "from user_service.settings import Settings\nfrom flask import Flask"),
        ("user_service.web.api.users", "from user_service.cache.page_cache import PageCache"),
        ("user_service.web.api.health", "from user_service import __version__"),
        ("user_service.database.pool", "from user_service.database import wait"),
        ("user_service.database.user_repository", "from user_service.domain.user import User"),
        ("user_service.settings", "import os\nos.environ"),
        ("gunicorn.conf", "if TYPE_CHECKING:\n    from flask import Flask"),
        ("user_service.domain.user", "import flaskish, os\nos.path"),
    ],
)
def test_what_is_allowed_is_no_violation(module: str, source: str) -> None:
    assert violations(module, source) == []
