"""The headers that tell of the end of a route, on real routes of an application made for it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from flask import Blueprint, Flask, Response, request

from user_service.errors import RateLimited, UserNotFound
from user_service.web.policies.deprecation import Deprecation, register_deprecations
from user_service.web.problems import register_problems

# 23:59:59 in UTC.
SINCE = datetime(2023, 7, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2)))
SUNSET = datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC)
GUIDE = "https://users.example.com/from-v1-to-v2"


def view(number: int) -> Response:
    if not number:
        raise UserNotFound
    return Response(str(number), headers={"Link": '</view/2>; rel="next"'})


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__, static_folder=None)
    register_problems(app)

    @Deprecation(since=SINCE, sunset=SUNSET, link=GUIDE)
    def going(number: int) -> Response:
        return view(number)

    old = Deprecation(since=SINCE, sunset=SUNSET)(Blueprint("old", __name__, url_prefix="/old"))
    old.add_url_rule("/<int:number>", "view", view)
    app.add_url_rule("/view/<int:number>", "view", going)
    app.add_url_rule("/fresh", "fresh", lambda: "")
    app.register_blueprint(old)
    register_deprecations(app)

    @app.before_request
    def refuse() -> None:
        if "refused" in request.args:
            raise RateLimited("default", 42)

    return app


@pytest.mark.parametrize(("thing", "status"), [("1", 200), ("0", 404), ("1?refused", 429)])
@pytest.mark.parametrize("folder", ["/view", "/old"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_route_tells_since_when_until_when_and_where_to_read(
    app: Flask, method: str, folder: str, thing: str, status: int
) -> None:
    answer = app.test_client().open(f"{folder}/{thing}", method=method)
    assert answer.status_code == status
    # The example of RFC 9745, section 2.1, and its moment a year later in HTTP's form.
    assert answer.headers["Deprecation"] == "@1688169599"
    assert answer.headers["Sunset"] == "Sun, 30 Jun 2024 23:59:59 GMT"
    links = ['</view/2>; rel="next"'] if status == 200 else []
    if folder == "/view":
        links.append(f'<{GUIDE}>; rel="deprecation sunset"; type="text/html"')
    assert answer.headers.getlist("Link") == links


@pytest.mark.parametrize("path", ["/view/1", "/old/1"])
def test_answer_to_options_tells_it_too(app: Flask, path: str) -> None:
    assert app.test_client().options(path).headers["Deprecation"] == "@1688169599"


@pytest.mark.parametrize("path", ["/fresh", "/nowhere", "/old/nowhere"])
def test_others_tell_nothing(app: Flask, path: str) -> None:
    answer = app.test_client().get(path)
    assert not {"Deprecation", "Sunset", "Link"} & set(answer.headers.keys())


@pytest.mark.parametrize(
    ("since", "sunset", "complaint"),
    [
        (SINCE.replace(tzinfo=None), None, "offset"),
        (SINCE, SUNSET.replace(tzinfo=None), "offset"),
        (SUNSET, SINCE, "before"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_start(
    since: datetime, sunset: datetime | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Deprecation(since=since, sunset=sunset)
