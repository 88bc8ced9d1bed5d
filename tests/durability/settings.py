"""Settings of the worker processes that the durability tests kill: the real ones, with the foundation and counting
jobs.
"""

from oncoflow_site.settings import *  # noqa: F403

INSTALLED_APPS = [
    "oncoflow_site.foundation",
    "tests.durability.effects",
    "django.contrib.contenttypes",
    "django.contrib.auth",
]
AUTH_USER_MODEL = "auth.User"
ONCOFLOW_SHUTDOWN_SECONDS = 2.0
MIDDLEWARE: list[str] = []
ROOT_URLCONF = ""
ONCOFLOW_REAP_SECONDS = 0.3
