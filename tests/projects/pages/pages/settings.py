import contextlib
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "for tests only"
DEBUG = True
ALLOWED_HOSTS = []
ROOT_URLCONF = "pages.urls"
ASGI_APPLICATION = "pages.asgi.application"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django_daphne",
    "django.contrib.staticfiles",
    "channels",
    "pages",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
    }
}
STATIC_URL = "static/"

with contextlib.suppress(ModuleNotFoundError):
    from .settings_of_test import *  # noqa: F403
