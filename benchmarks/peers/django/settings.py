"""Django's settings: nothing is on that an API of this kind has no use for."""

import os
from urllib.parse import unquote, urlsplit

_database = urlsplit(os.environ["DATABASE_URL"])

SECRET_KEY = os.urandom(32).hex()  # nothing is signed
ALLOWED_HOSTS = ["*"]
DEBUG = False
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
APPEND_SLASH = False
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["rest_framework", "users"]
MIDDLEWARE = ["observed.Observed"]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path.lstrip("/"),
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _database.hostname,
        "PORT": _database.port,
        "OPTIONS": {"pool": {"min_size": 10, "max_size": 10}},
    }
}
CACHES = {
    "default": {
        # Not Django's own backend: that makes a new client for every call, measured 65 µs.
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["REDIS_URL"],
        "KEY_PREFIX": "django",
        "TIMEOUT": 60,
    }
}
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_RENDERER_CLASSES": ["drf_orjson_renderer.renderers.ORJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["drf_orjson_renderer.parsers.ORJSONParser"],
    "EXCEPTION_HANDLER": "problems.handle",
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "observed.JsonFormatter"}},
    "handlers": {
        "stdout": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "json",
        }
    },
    "root": {"level": "INFO", "handlers": ["stdout"]},
    # A 4xx is in the access log; Django would log each a second time.
    "loggers": {"django": {"level": "ERROR", "handlers": [], "propagate": True}},
}
