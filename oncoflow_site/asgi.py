"""The ASGI application, served by uvicorn."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oncoflow_site.settings")
django.setup(set_prefix=False)

from oncoflow_site.streaming import StreamingHandler  # noqa: E402  (it reads settings when it is imported)

application = StreamingHandler()
