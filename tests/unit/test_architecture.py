"""The rules of the architecture: direction of imports, public interfaces, small folders.

``app -> web -> {database, cache, security} -> {resilience, observability} -> {errors, domain}``
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "services" / "user-service"

# The parts that each part may import, beside itself. Siblings do not import each other.
CORE = {"errors", "domain"}
POLICIES = CORE | {"resilience", "observability"}
ADAPTERS = POLICIES | {"database", "cache", "security"}
MAY_IMPORT: dict[str, set[str]] = {
    "user_service": set(),
    "settings": set(),
    "errors": {"domain"},
    "domain": set(),
    "resilience": CORE,
    "observability": CORE,
    "database": POLICIES,
    "cache": POLICIES,
    "security": POLICIES,
    "web": ADAPTERS | {"user_service"},
    "app": ADAPTERS | {"user_service", "web", "settings"},
}
# The parts or modules that may import a library; all others are free.
LIBRARIES = {
    "gunicorn": {"app"},
    "gevent": {"app"},
    "granian": {"app"},
    "flask": {"app", "web"},
    "werkzeug": {"app", "web"},
    "psycopg2": {"database"},
    "redis": {"cache", "user_service.web.policies.rate_limiter"},
    "limits": {"user_service.web.policies.rate_limiter"},
    "opentelemetry": {"observability"},
    "joserfc": {"security"},
}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
MAX_MODULES_IN_A_FOLDER = 12


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
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        broken += [f"reads {name}" for name in ENVIRONMENT & names.union(imported(tree))]
    return broken


def may_import(module: str, name: str) -> bool:
    importer = part_of(module)
    library = name.partition(".")[0]
    if library == "user_service":
        return part_of(name) in MAY_IMPORT[importer] | {importer}
    return bool({importer, module} & LIBRARIES.get(library, {importer}))


def imported(tree: ast.AST) -> list[str]:
    """Return the full names of what is imported at run time, inside of functions too."""
    return [name for _, name in imports(run_time_nodes(tree))]


def imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield the name here and the full name of each import among ``nodes``."""
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield from ((each.asname or each.name.split(".")[0], each.name) for each in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, "relative imports are not understood here"
                yield from ((each.asname or each.name, f"{module}.{each.name}") for each in names)


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


FILES = [*SERVICE.glob("*.py"), *(SERVICE / "user_service").rglob("*.py")]
MODULES = {
    ".".join(file.relative_to(SERVICE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_the_rules(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_every_part_is_in_the_picture() -> None:
    inside = {module.split(".")[1] for module in MODULES if module.startswith("user_service.")}
    assert inside == MAY_IMPORT.keys() - {"user_service", "app"}
    assert {"app", "gunicorn.conf", "user_service"} <= MODULES.keys()


def test_module_names_are_unique_and_folders_small() -> None:
    files = [file for file in FILES if file.name != "__init__.py"]
    names, folders = Counter(file.name for file in files), Counter(file.parent for file in files)
    assert [name for name, number in names.items() if number > 1] == []
    assert [str(f) for f, number in folders.items() if number > MAX_MODULES_IN_A_FOLDER] == []


def test_only_public_interfaces_are_used() -> None:
    """No foreign name with a leading underscore, no override of one, no patch."""
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
    ours = set().union(*map(defined_names, trees.values()))
    assert [f"{name}: {part}" for name in trees for part in private_parts(trees[name], ours)] == []


def private_parts(tree: ast.AST, ours: set[str]) -> Iterator[str]:
    """Yield the private parts of others that ``tree`` uses; ``ours`` are the project's names."""
    foreign = foreign_imports(tree)
    yield from (name for name in foreign.values() if any(map(is_private, name.split("."))))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name) and name not in ours:
                yield ast.unparse(node)
            case ast.Assign(targets=targets):
                yield from (ast.unparse(each) for each in targets if is_patch(each, foreign))
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                if is_patch(target, foreign):
                    yield ast.unparse(target)
            case ast.Call(func=ast.Name(id="setattr"), args=[owner, *_]) if root(owner) in foreign:
                yield ast.unparse(node)
            case ast.ClassDef() if any(root(base) in foreign for base in node.bases):
                yield from (f"{node.name}.{name}" for name in overridden(node, tree))


def overridden(node: ast.ClassDef, tree: ast.AST) -> Iterator[str]:
    """Yield private methods that nothing here calls: the base class must be what calls them."""
    called = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    for method in node.body:
        match method:
            case ast.FunctionDef(name=name, decorator_list=[]) if is_private(name):
                yield from {name} - called


def is_private(name: str) -> bool:
    documented = {"_make", "_replace", "_asdict", "_fields"}  # of named tuples
    return name.startswith("_") and not name.startswith("__") and name not in documented | {"_"}


def is_patch(target: ast.expr, foreign: dict[str, str]) -> bool:
    name = root(target)
    return isinstance(target, ast.Attribute) and foreign.get(name, "os") not in ("os", "flask.g")


def root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def foreign_imports(tree: ast.AST) -> dict[str, str]:
    """Return the full names of what is imported from others, by the names used here."""
    own = {"user_service", "_typeshed", "__future__", *(path.stem for path in SERVICE.glob("*.py"))}
    return {name: full for name, full in imports(ast.walk(tree)) if full.split(".")[0] not in own}


def defined_names(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) if root(node) in ("self", "cls"):
                names.add(name)
            case ast.Constant(value=str(name)):  # in __slots__
                names.add(name)
    return names


@pytest.mark.parametrize(
    ("number", "source"),
    [
        (1, "from gunicorn.http.message import _ip_in_allow_list"),
        (1, "import flask\nflask.globals._cv_app"),
        (1, "def view(request):\n    return request._get_current_object()"),
        (1, "from gunicorn import util\nutil.http_date = None"),
        (1, "from redis import Redis\nsetattr(Redis, 'get', None)"),
        (1, "from redis import Redis\nclass Mine(Redis):\n    def _execute_command(self): pass"),
        (1, "import select\nselect.poll = None"),
        (0, "class Mine:\n    def _ours(self): pass\n    def f(self): self._ours()"),
        (0, "from flask import Flask\napp = Flask('x')\napp.wsgi_app = None"),
        (0, "import redis\nclass R(redis.Redis):\n    def f(self): self._g()\n    def _g(self): 1"),
        (0, "import os\nos.environ['A'] = 'b'"),
        (0, "from typing import NamedTuple\nclass U(NamedTuple): pass\nU._make([])"),
    ],
)
def test_private_parts_of_others_are_found_and_nothing_else(number: int, source: str) -> None:
    tree = ast.parse(source)
    assert len(list(private_parts(tree, defined_names(tree)))) == number


@pytest.mark.parametrize(
    ("module", "source", "number"),
    [
        ("user_service.resilience.retry", "from user_service.observability import logs", 1),
        ("user_service.cache.page_cache", "from user_service import database", 1),
        ("user_service.database.database", "from user_service.web.services import services", 1),
        ("user_service.settings", "from user_service.domain.user import User", 1),
        ("user_service", "from user_service.web import api", 1),
        ("user_service.web.api.health", "def health():\n    import psycopg2.extensions", 1),
        ("user_service.web.policies.rate_limits", "from redis import Redis", 1),
        ("app", "import os\nport = os.getenv('PORT')", 1),
        ("user_service.cache.connection", "from os import environ", 1),
        ("user_service.web.api.users", "if TYPE_CHECKING:\n    pass\nelse:\n    import redis", 1),
        ("app", "from user_service.settings import Settings\nfrom flask import Flask", 0),
        ("user_service.database.user_repository", "from user_service.domain.user import User", 0),
        ("user_service.settings", "import os\nos.environ", 0),
        ("gunicorn.conf", "if TYPE_CHECKING:\n    from flask import Flask", 0),
        ("user_service.domain.user", "import flaskish, os\nos.path", 0),
    ],
)
def test_violations_are_found_and_nothing_else(module: str, source: str, number: int) -> None:
    assert len(violations(module, source)) == number
