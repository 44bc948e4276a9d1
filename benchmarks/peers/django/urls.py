"""The routes."""

from django.http import HttpRequest, HttpResponse
from django.urls import path
from observed import metrics
from users.views import UserDetail, UserList


def live(_request: HttpRequest) -> HttpResponse:
    """Say that the process serves."""
    return HttpResponse(b'{"status":"alive"}', content_type="application/json")


urlpatterns = [
    path("api/v1/users", UserList.as_view()),
    path("api/v1/users/<int:pk>", UserDetail.as_view()),
    path("health/live", live),
    path("metrics", metrics),
]
handler404 = "problems.not_found"
handler500 = "problems.unexpected"
