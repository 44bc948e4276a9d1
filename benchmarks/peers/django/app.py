"""The user service on Django REST Framework: the WSGI application."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = get_wsgi_application()
