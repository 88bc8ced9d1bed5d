"""Enqueues jobs ``<lane><number>`` from its arguments, one transaction each: ``produce.py a 0 20``."""

from __future__ import annotations

import sys

import django

django.setup()

from django.db import transaction  # noqa: E402

from oncoflow_site.foundation import jobs  # noqa: E402

lane, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(first, last):
    name = f"{lane}{number:03d}"
    with transaction.atomic():
        jobs.enqueue("effects.make", subject=f"lane:{lane}", key=f"make:{name}", kwargs={"name": name})
