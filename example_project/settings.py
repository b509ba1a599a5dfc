"""Settings of the example.

What differs between a laptop and a server is read from the environment, and every
default suits the laptop: ``SECRET_KEY``, ``DEBUG``, ``ALLOWED_HOSTS``, ``REDIS_URL``,
``EXAMPLE_DATABASE``, ``EXAMPLE_MEDIA``, ``CHAT_HEARTBEAT``.
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent

DEBUG = os.environ.get("DEBUG", "1").lower() in {"1", "true", "yes", "on"}

SECRET_KEY = os.environ.get("SECRET_KEY", "")
if not SECRET_KEY:
    if not DEBUG:
        raise ImproperlyConfigured("Set SECRET_KEY in the environment.")
    SECRET_KEY = "for-development-only-and-known-to-everybody"

# Empty with DEBUG means localhost, for pages and for WebSocket origins alike.
ALLOWED_HOSTS = [
    name for name in os.environ.get("ALLOWED_HOSTS", "").split(",") if name
]


# Applications

INSTALLED_APPS = [
    # Before staticfiles, whose `runserver` it extends.
    "django_daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "example_project.chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "example_project.urls"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


# The chat

# The largest file that may be attached to a message, in bytes.
CHAT_UPLOAD_LIMIT = 10 * 1024 * 1024

# Seconds between two signs of life on each WebSocket. Who was not heard of for three
# of them is gone: see chat/presence.py.
CHAT_HEARTBEAT = float(os.environ.get("CHAT_HEARTBEAT", "10"))


# The server

ASGI_APPLICATION = "example_project.asgi.application"

# Every key is optional; these are the ones a chat has an opinion about.
DJANGO_DAPHNE = {
    # Where `runasgi` listens. `runserver` takes its address on the command line.
    "BIND": ["127.0.0.1:8000"],
    "LIMITS": {
        # Refuse what is too large before Django has stored it, with some room for
        # the multipart form around the file.
        "BODY_BYTES": CHAT_UPLOAD_LIMIT + 64 * 1024,
    },
    "WEBSOCKET": {
        # Messages are short (files travel over HTTP); the default is 1 MiB.
        "MAX_MESSAGE_SIZE": 64 * 1024,
    },
    "TIMEOUTS": {
        # A restart waits this long for running requests. WebSockets are closed at its
        # beginning, and the browsers come back by themselves.
        "GRACEFUL": 25,
    },
}

# One process needs no broker. Several need Redis: pip install django-daphne[redis]
if os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        },
    }
else:
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }


# Storage

DATABASE = Path(os.environ.get("EXAMPLE_DATABASE", BASE_DIR / "db.sqlite3"))

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATABASE,
        "OPTIONS": {
            # Readers and one writer at the same time; writers queue for up to 20 s,
            # and a transaction that will write queues when it begins, since SQLite
            # cannot let it wait once it has read.
            "init_command": "PRAGMA journal_mode = WAL",
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
        },
        # A file, so that the tests meet the same locking.
        "TEST": {"NAME": DATABASE.with_suffix(".test.sqlite3")},
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# There is no MEDIA_URL: uploads leave through a view that knows who may have them.
MEDIA_ROOT = Path(os.environ.get("EXAMPLE_MEDIA", BASE_DIR / "media"))

# With DEBUG, runserver and asgi.py serve static files. Without, run `collectstatic`
# and let WhiteNoise or the web server in front serve this directory.
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static"


# People

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "chat:rooms"
LOGOUT_REDIRECT_URL = "login"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# Behind TLS, which production is.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
