"""The routes on users."""

from django.db.models import Sum
from django.http import HttpResponse
from rest_framework import status
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.generics import get_object_or_404
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from users import pages
from users.models import User, UsersCount
from users.serializers import UserSerializer

JSON = JSONRenderer.media_type
MAX_PER_PAGE = 100
LARGEST_NUMBER = 2**56


class UserList(APIView):
    """``/api/v1/users``."""

    def get(self, request: Request) -> HttpResponse:
        """Return one page of the users, in order of id."""
        page = whole_number(request, "page", 1)
        per_page = min(whole_number(request, "per_page", 50), MAX_PER_PAGE)
        name = f"{page}:{per_page}"
        generation, body = pages.look_up(name)
        if body is not None:
            return HttpResponse(body, content_type=JSON, headers={"X-Cache": "HIT"})
        body = render(page_of_users(page, per_page))
        pages.keep(name, generation, body)
        return HttpResponse(body, content_type=JSON, headers={"X-Cache": "MISS"})

    def post(self, request: Request) -> Response:
        """Create a user."""
        serializer = UserSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        user = serializer.save()
        pages.invalidate()
        headers = {"Location": f"/api/v1/users/{user.id}"}
        return Response(serializer.data, status.HTTP_201_CREATED, headers=headers)


class UserDetail(APIView):
    """``/api/v1/users/{id}``."""

    def get(self, _request: Request, pk: int) -> Response:
        """Return a user."""
        return Response(UserSerializer(get_object_or_404(User, pk=pk)).data)

    def put(self, request: Request, pk: int) -> Response:
        """Replace both the username and the email of a user."""
        user = get_object_or_404(User, pk=pk)
        serializer = UserSerializer(user, data=request.data)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        user.refresh_from_db(fields=["updated_at"])  # a trigger dates the change
        pages.invalidate()
        return Response(serializer.data)

    def delete(self, _request: Request, pk: int) -> Response:
        """Delete a user."""
        deleted, _ = User.objects.filter(pk=pk).delete()
        if not deleted:
            raise NotFound
        pages.invalidate()
        return Response(status=status.HTTP_204_NO_CONTENT)


def whole_number(request: Request, name: str, default: int) -> int:
    """Return a parameter of the query string; a serializer for two numbers would take 65 µs."""
    try:
        number = int(request.query_params.get(name, default))
    except ValueError:
        raise ValidationError({name: ["must be a whole number"]}) from None
    if not 1 <= number <= LARGEST_NUMBER:
        raise ValidationError({name: [f"must be 1 to {LARGEST_NUMBER}"]})
    return number


def page_of_users(page: int, per_page: int) -> dict[str, object]:
    """Read a page and the total."""
    offset = (page - 1) * per_page
    users = User.objects.order_by("id")[offset : offset + per_page]
    total = UsersCount.objects.aggregate(total=Sum("number"))["total"]
    return {
        "users": UserSerializer(users, many=True).data,
        "pagination": {
            "page": page,
            "per_page": per_page,
            "total": int(total),
            "pages": -(-int(total) // per_page),
        },
    }


def render(document: dict[str, object]) -> bytes:
    """Return ``document`` as the service's renderer writes it."""
    (renderer,) = api_settings.DEFAULT_RENDERER_CLASSES
    return renderer().render(document)
