"""The headers that tell of the end of a route, on real routes of an application made for it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from flask import Blueprint, Flask, Response

from user_service.errors import UserNotFound
from user_service.web.policies.deprecation import Deprecation, deprecated, deprecation_of
from user_service.web.problems import register_problems

# 23:59:59 in UTC.
SINCE = datetime(2023, 7, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2)))
SUNSET = datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC)
GUIDE = "https://users.example.com/from-v1-to-v2"


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__, static_folder=None)
    old = deprecated(since=SINCE, sunset=SUNSET)(Blueprint("old", __name__, url_prefix="/old"))
    register_problems(app)

    @app.get("/view/<int:number>")
    @deprecated(since=SINCE, sunset=SUNSET, link=GUIDE)
    def view(number: int) -> Response:
        if not number:
            raise UserNotFound
        return Response(str(number), headers={"Link": '</view/2>; rel="next"'})

    @app.get("/fresh")
    def fresh() -> str:
        return ""

    @old.get("/one")
    def one() -> str:
        return ""

    @old.get("/two")
    def two() -> str:
        raise UserNotFound

    app.register_blueprint(old)
    return app


@pytest.mark.parametrize(("path", "status"), [("/view/1", 200), ("/view/0", 404)])
def test_view_tells_since_when_until_when_and_where_to_read(
    app: Flask, path: str, status: int
) -> None:
    for method in ("GET", "HEAD"):
        answer = app.test_client().open(path, method=method)
        assert answer.status_code == status
        # The example of RFC 9745, section 2.1, and its moment a year later in HTTP's form.
        assert answer.headers["Deprecation"] == "@1688169599"
        assert answer.headers["Sunset"] == "Sun, 30 Jun 2024 23:59:59 GMT"
        link = f'<{GUIDE}>; rel="deprecation sunset"; type="text/html"'
        assert answer.headers.getlist("Link")[-1] == link
    if status == 200:
        assert answer.headers.getlist("Link")[0] == '</view/2>; rel="next"'


@pytest.mark.parametrize(("path", "status"), [("/old/one", 200), ("/old/two", 404)])
def test_blueprint_tells_it_on_all_of_its_routes(app: Flask, path: str, status: int) -> None:
    answer = app.test_client().get(path)
    assert answer.status_code == status
    assert answer.headers["Deprecation"] == "@1688169599"
    assert "Link" not in answer.headers


@pytest.mark.parametrize("path", ["/fresh", "/nowhere", "/old/nowhere"])
def test_others_tell_nothing(app: Flask, path: str) -> None:
    answer = app.test_client().get(path)
    assert not {"Deprecation", "Sunset", "Link"} & set(answer.headers.keys())
    assert list(app.after_request_funcs) == ["old"]


def test_documentation_can_read_it(app: Flask) -> None:
    assert deprecation_of(app, "view") == Deprecation(SINCE, SUNSET, GUIDE)
    assert deprecation_of(app, "old.one") == Deprecation(SINCE, SUNSET)
    assert deprecation_of(app, "fresh") is None


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
        deprecated(since=since, sunset=sunset)
