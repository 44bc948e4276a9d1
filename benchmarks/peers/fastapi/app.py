"""The user service on FastAPI: the routes. ``uvicorn app:app`` serves it."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import observed
import orjson
from fastapi import FastAPI, Path, Query, Request, Response
from pages import Pages
from problems import not_found, register_problems
from redis.asyncio import Redis
from schemas import UserWrite
from users import Users, open_pool

JSON = "application/json"
BIGINT_MAX = 2**63 - 1
MAX_PER_PAGE = 100
MAX_PAGE = BIGINT_MAX // MAX_PER_PAGE

PageNumber = Annotated[int, Query(ge=1, le=MAX_PAGE)]
PerPage = Annotated[int, Query(ge=1)]
UserId = Annotated[int, Path(le=BIGINT_MAX)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold one pool of PostgreSQL connections and one of Redis connections."""
    async with (
        await open_pool(os.environ["DATABASE_URL"]) as pool,
        Redis.from_url(os.environ["REDIS_URL"]) as redis,
    ):
        app.state.users = Users(pool)
        app.state.pages = Pages(redis)
        # The collector need not go through what was there from the start, which halts requests.
        gc.collect()
        gc.freeze()
        yield


# FastAPI's own telemetry is for OpenTelemetry, which nobody collects here.
api = FastAPI(
    lifespan=lifespan,
    redirect_slashes=False,
    telemetry={"tracing": False, "metrics": False, "logs": False},
)
register_problems(api)


@api.get("/api/v1/users")
async def list_users(page: PageNumber = 1, per_page: PerPage = 50) -> Response:
    """Return one page of the users, in order of id."""
    per_page = min(per_page, MAX_PER_PAGE)
    pages: Pages = api.state.pages
    name = f"{page}:{per_page}"
    generation, body = await pages.look_up(name)
    if body is not None:
        return Response(body, media_type=JSON, headers={"X-Cache": "HIT"})
    users, total = await api.state.users.page(page, per_page)
    pagination = {
        "page": page,
        "per_page": per_page,
        "total": total,
        "pages": -(-total // per_page),
    }
    body = orjson.dumps({"users": users, "pagination": pagination})
    await pages.keep(name, generation, body)
    return Response(body, media_type=JSON, headers={"X-Cache": "MISS"})


@api.post("/api/v1/users")
async def create_user(user: UserWrite) -> Response:
    """Create a user."""
    created = await api.state.users.create(user)
    await api.state.pages.invalidate()
    headers = {"Location": f"/api/v1/users/{created['id']}"}
    return Response(orjson.dumps(created), 201, headers, JSON)


@api.get("/api/v1/users/{user_id:int}")
async def get_user(request: Request, user_id: UserId) -> Response:
    """Return a user."""
    user = await api.state.users.get(user_id)
    return not_found(request) if user is None else Response(orjson.dumps(user), media_type=JSON)


@api.put("/api/v1/users/{user_id:int}")
async def replace_user(request: Request, user_id: UserId, user: UserWrite) -> Response:
    """Replace both the username and the email of a user."""
    replaced = await api.state.users.replace(user_id, user)
    if replaced is None:
        return not_found(request)
    await api.state.pages.invalidate()
    return Response(orjson.dumps(replaced), media_type=JSON)


@api.delete("/api/v1/users/{user_id:int}")
async def delete_user(request: Request, user_id: UserId) -> Response:
    """Delete a user."""
    if not await api.state.users.delete(user_id):
        return not_found(request)
    await api.state.pages.invalidate()
    return Response(status_code=204)


@api.get("/health/live")
async def live() -> Response:
    """Say that the process serves."""
    return Response(b'{"status":"alive"}', media_type=JSON)


@api.get("/metrics")
async def metrics() -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(observed.metrics(), media_type=observed.METRICS_TYPE)


observed.configure_logging()
app = observed.Observed(api)
