"""Tables of what the service stands on, alone, and of where the time of a request goes."""

from benchmarks.figures import Label, Results, Spread
from benchmarks.limit import ROUTES
from benchmarks.markdown import MISSING, figure, number, share, table

ROUTE_TITLES = {workload.name: workload.title for workload in ROUTES}
CONSTANTS = {"bare-wsgi": "a bare WSGI constant", "bare-flask": "a bare Flask constant"}
ALONE = {"redis-py": "redis-py alone", "socket": "a bare socket to Redis"}
CLIENTS = 10

REDIS_MISS = "Redis: look-up, claim and store of a miss"
JSON_PAGE = "JSON, cursors, links and ETag of a page"
_ALWAYS = {"gunicorn", "Flask", "middleware"}
LAYERS_OF: dict[str, tuple[str, set[str]]] = {
    # Such a page, and such a user, are answered before Flask is asked.
    "cached-10": ("cached page of 10", (_ALWAYS - {"Flask"}) | {"Redis"}),
    "uncached": ("uncached page of 10", _ALWAYS | {REDIS_MISS, "SQL, a page", JSON_PAGE}),
    "get": ("get by id", (_ALWAYS - {"Flask"}) | {"SQL, a user"}),
}
# What each constant does more than another: the layer is the difference.
DIFFERENCES = {
    "gunicorn": ("bare-wsgi", None),
    "Flask": ("bare-flask", "bare-wsgi"),
    "middleware": ("middleware", "bare-flask"),
    "Redis": ("redis", "middleware"),
    REDIS_MISS: ("redis-miss", "middleware"),
    "SQL, a user": ("sql-user", "middleware"),
    "SQL, a page": ("sql-page", "middleware"),
    JSON_PAGE: ("page", "sql-page"),
}


def limit_table(results: Results) -> str:
    """Return each route as a share of what server, framework and driver reach alone."""
    rows = []
    for route, title in ROUTE_TITLES.items():
        shares = [_of_constant(results, route, name) for name in CONSTANTS]
        rows.append([title, *map(share, shares), share(_of_driver(results, route))])
    titles = [f"of {title}" for title in CONSTANTS.values()]
    return table(("requests/s", *titles, "of its driver alone (1 client)"), rows)


def reached_table(results: Results) -> str:
    """Return how often a second each of these was done."""
    rows = [
        [f"{title}, clients: {CLIENTS}", _reached(results, target=name, clients=CLIENTS)]
        for name, title in CONSTANTS.items()
    ]
    rows += [
        [f"{title}: the cached page", _reached(results, target=name)]
        for name, title in ALONE.items()
    ]
    rows += [
        [f"psycopg2 alone: {title}", _reached(results, target="psycopg2", workload=name)]
        for name, title in ROUTE_TITLES.items()
        if name in results.values("workload", target="psycopg2")
    ]
    rows += [
        [
            f"the service: {title}, clients: {CLIENTS}",
            _reached(results, target="ours", workload=name, clients=CLIENTS),
        ]
        for name, title in ROUTE_TITLES.items()
    ]
    return table(("", "a second"), rows)


def layers_table(results: Results) -> str:
    """Return the CPU time of each layer: what it takes more than what it is built on."""
    costs = {name: _cost(results, *pair) for name, pair in DIFFERENCES.items()}
    totals = {route: _cpu_us(results, route) for route in LAYERS_OF}
    rows = [
        [layer, *(number(cost) if layer in parts else MISSING for _, parts in LAYERS_OF.values())]
        for layer, cost in costs.items()
    ]
    rest = [
        totals[route] - sum(cost for layer, cost in costs.items() if layer in parts)
        for route, (_, parts) in LAYERS_OF.items()
    ]
    rows.append(["validation, headers, the rest", *map(number, rest)])
    rows.append(["**all**", *(f"**{number(total)}**" for total in totals.values())])
    return table(("µs of CPU", *(title for title, _ in LAYERS_OF.values())), rows)


def _of_constant(results: Results, route: str, name: str) -> Spread | None:
    ours: dict[str, Label] = {"target": "ours", "workload": route, "clients": CLIENTS}
    return results.ratio("per_second", ours, {"target": name, "clients": CLIENTS})


def _of_driver(results: Results, route: str) -> Spread | None:
    driver = "redis-py" if route.startswith("cached") else "psycopg2"
    ours: dict[str, Label] = {"target": "ours", "workload": route, "clients": 1}
    return results.ratio("per_second", ours, {"target": driver, "workload": route})


def _reached(results: Results, **where: Label) -> str:
    return figure(results.spread("per_second", **where))


def _cost(results: Results, with_it: str, without: str | None) -> float:
    return _cpu_us(results, with_it) - (_cpu_us(results, without) if without else 0)


def _cpu_us(results: Results, name: str) -> float:
    """Return the median CPU time a request of a bare constant, of a layer or of a route, in µs."""
    label = "target" if name.startswith("bare-") else "workload"
    spread = results.spread("cpu_us", **{label: name})
    return spread.median if spread else float("nan")
