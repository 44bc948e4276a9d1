"""What is asked of the targets: kinds of requests, and which of them make up a workload."""

import json
from dataclasses import dataclass

USERS = "/api/v1/users"
# Those that are asked for where no page may come from a cache: from the first size to the second,
# which are 10 in the mean, and so many pages. They are as many as can be told apart from each other
# by a service that remembers 1,024 queries, as ours does.
PAGE_SIZES = (8, 12)
PAGES = 200


@dataclass(frozen=True, slots=True)
class Request:
    """A kind of request; ``load.lua`` says what {id}, {page} and so on become."""

    path: str
    method: str = "GET"
    body: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Workload:
    """What one measurement asks for.

    With ``pages``, each request is for the next of so many pages, in every size of a page, and
    Redis is emptied before the first comes round again: every one is a miss, on every target.
    """

    name: str
    title: str
    requests: tuple[Request, ...]
    pages: int = 0

    @property
    def is_cached(self) -> bool:
        """Whether the cache holds all that is asked for, once it has been asked for."""
        return not self.pages and all(
            request.method == "GET" and "{" not in request.path for request in self.requests
        )


def _user(name: str) -> str:
    return json.dumps({"username": name, "email": f"{name}@example.com"})


CACHED = Request(f"{USERS}?page=1&per_page=10")
GET = Request(f"{USERS}/{{id}}")
CREATE = Request(USERS, "POST", _user("{unique}"))
# To the name that the user has, so that any number of rounds finds the same users.
UPDATE = Request(f"{USERS}/{{id}}", "PUT", _user("User{id}"))


def page_of(size: int) -> Workload:
    """Return the workload of the first page, which the cache holds."""
    request = Request(f"{USERS}?page=1&per_page={size}")
    return Workload(f"cached-{size}", f"cached page of {size}", (request,))


def uncached(users: int) -> Workload:
    """Return the workload of pages near the beginning, none of which the cache holds."""
    request = Request(f"{USERS}?page={{page}}&per_page={{size}}")
    return Workload("uncached", "uncached page of 10", (request,), _pages(users))


def deep(users: int) -> Workload:
    """Return the workload of the last pages, none of which the cache holds."""
    request = Request(f"{USERS}?page={{page_from_end}}&per_page={{size}}")
    return Workload("deep", "deep page of 10", (request,), _pages(users))


def _pages(users: int) -> int:
    return min(PAGES, users // PAGE_SIZES[1])


LIST = Workload("list", "list of users", (Request(USERS),))
GET_BY_ID = Workload("get", "get by id", (GET,))
CREATION = Workload("create", "create", (CREATE,))
UPDATING = Workload("update", "update", (UPDATE,))
MIX = Workload(
    "mix",
    "mix, 90 % reads",
    (
        Request(CACHED.path, weight=45),
        Request(GET.path, weight=45),
        Request(UPDATE.path, "PUT", UPDATE.body, weight=10),
    ),
)
