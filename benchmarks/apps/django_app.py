"""A Django project with the default middleware and signed-cookie sessions.

``asgi`` is Django's own handler, ``fast`` django-daphne's, ``wsgi`` what WSGI servers
run. The views are the same; what differs is who calls them.
"""

import tempfile
from pathlib import Path

import django
from django.conf import settings

#: What the file view sends.
FILE_BYTES = 1024 * 1024

_directory = Path(tempfile.mkdtemp(prefix="bench-django-"))

settings.configure(
    DEBUG=False,
    SECRET_KEY="for benchmarks only, and long enough for nobody to complain",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(_directory / "db.sqlite3"),
        }
    },
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {
                            "users.html": "<ul>{% for user in users %}"
                            "<li>{{ user.username }}</li>{% endfor %}</ul>"
                        },
                    )
                ]
            },
        }
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    LOGGING_CONFIG=None,
)
django.setup(set_prefix=False)

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.http import FileResponse, HttpResponse  # noqa: E402
from django.shortcuts import render  # noqa: E402
from django.urls import path  # noqa: E402

call_command("migrate", verbosity=0)
User.objects.bulk_create(User(username=f"user{number}") for number in range(10))
connections.close_all()
_file = _directory / "file"
_file.write_bytes(bytes(FILE_BYTES))


def hello(request):
    return HttpResponse(b"Hello, world!", content_type="text/plain")


async def ahello(request):
    return HttpResponse(b"Hello, world!", content_type="text/plain")


def users(request):
    return render(request, "users.html", {"users": User.objects.all()})


def file(request):
    return FileResponse(_file.open("rb"), content_type="text/plain")


urlpatterns = [
    path("sync", hello),
    path("async", ahello),
    path("template", users),
    path("file", file),
]


def __getattr__(name):
    if name == "fast":
        from django_daphne.asgi import get_asgi_application

        return get_asgi_application()
    if name == "asgi":
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    if name == "wsgi":
        from django.core.wsgi import get_wsgi_application

        return get_wsgi_application()
    raise AttributeError(name)
