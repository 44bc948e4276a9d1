"""``/api/v1/users``: the routes, with Flask-Smorest and SQLAlchemy's ORM."""

import orjson
from flask import Response, current_app, url_for
from flask.views import MethodView
from flask_smorest import Blueprint
from models import User, UsersCount, canonical_email, canonical_username, db
from pages import Pages
from problems import UserNotFound
from schemas import ListQuerySchema, UserSchema
from sqlalchemy import delete, func, select, update

JSON = "application/json"
MAX_PER_PAGE = 100
BIGINT_MAX = 2**63 - 1

blueprint = Blueprint("users", "users", url_prefix="/api/v1/users")
blueprint.ARGUMENTS_PARSER.DEFAULT_VALIDATION_STATUS = 400

TOTAL = select(func.sum(UsersCount.number)).scalar_subquery()
ALL_USERS = UserSchema(many=True)


@blueprint.route("")
class UserList(MethodView):
    """The list."""

    @blueprint.arguments(ListQuerySchema, location="query")
    @blueprint.response(200)
    def get(self, query: dict[str, int]) -> Response:
        """Return one page of the users, in order of id."""
        pages: Pages = current_app.extensions["pages"]
        page, per_page = query["page"], min(query["per_page"], MAX_PER_PAGE)
        name = f"{page}:{per_page}"
        generation, body = pages.look_up(name)
        if body is not None:
            return Response(body, mimetype=JSON, headers={"X-Cache": "HIT"})
        body = orjson.dumps(page_of_users(page, per_page))
        pages.keep(name, generation, body)
        return Response(body, mimetype=JSON, headers={"X-Cache": "MISS"})

    @blueprint.arguments(UserSchema)
    @blueprint.response(201, UserSchema)
    def post(self, sent: dict[str, str]) -> tuple[User, dict[str, str]]:
        """Create a user."""
        user = User(**columns(sent))
        db.session.add(user)
        db.session.commit()
        current_app.extensions["pages"].invalidate()
        return user, {"Location": url_for("users.UserDetail", user_id=user.id)}


@blueprint.route("/<int:user_id>")
class UserDetail(MethodView):
    """A user."""

    @blueprint.response(200, UserSchema)
    def get(self, user_id: int) -> User:
        """Return a user."""
        user = None if user_id > BIGINT_MAX else db.session.get(User, user_id)
        if user is None:
            raise UserNotFound
        return user

    @blueprint.arguments(UserSchema)
    @blueprint.response(200, UserSchema)
    def put(self, sent: dict[str, str], user_id: int) -> User:
        """Replace both the username and the email of a user."""
        statement = update(User).where(User.id == user_id)
        changed = statement.values(**columns(sent), updated_at=func.now()).returning(User)
        user = db.session.scalar(changed, execution_options={"synchronize_session": False})
        if user is None:
            raise UserNotFound
        db.session.commit()
        current_app.extensions["pages"].invalidate()
        return user

    @blueprint.response(204)
    def delete(self, user_id: int) -> None:
        """Delete a user."""
        statement = delete(User).where(User.id == user_id)
        deleted = db.session.execute(statement, execution_options={"synchronize_session": False})
        if not deleted.rowcount:
            raise UserNotFound
        db.session.commit()
        current_app.extensions["pages"].invalidate()


def page_of_users(page: int, per_page: int) -> dict[str, object]:
    """Read a page and the total, in one statement unless the page is empty."""
    offset = (page - 1) * per_page
    rows = db.session.execute(
        select(User, TOTAL.label("total")).order_by(User.id).limit(per_page).offset(offset)
    ).all()
    total = int(rows[0].total if rows else db.session.scalar(select(TOTAL)))
    return {
        "users": ALL_USERS.dump([row.User for row in rows]),
        "pagination": {
            "page": page,
            "per_page": per_page,
            "total": total,
            "pages": -(-total // per_page),
        },
    }


def columns(sent: dict[str, str]) -> dict[str, str]:
    """Return what is stored of what a client sent."""
    return {
        **sent,
        "username_canonical": canonical_username(sent["username"]),
        "email_canonical": canonical_email(sent["email"]),
    }
