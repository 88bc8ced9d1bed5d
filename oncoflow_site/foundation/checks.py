"""System checks of the foundation (``manage.py check``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from oncoflow_site.foundation import keys
from oncoflow_site.foundation.errors import EngineError

__all__: list[str] = []


@register("foundation")
def check_keyset(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """foundation.W001: no usable master keyset. A warning, for ``init_keys`` itself runs the checks first."""
    try:
        keys.self_test()
    except EngineError as error:
        return [Warning(str(error), hint="Run manage.py init_keys, or set ONCOFLOW_KEYSET_JSON.", id="foundation.W001")]
    path = keys.keyset_path()
    if path is not None and not os.environ.get("ONCOFLOW_KEYSET_JSON") and path.stat().st_mode & 0o077:
        return [Warning(f"others can read the master keyset at {path}", hint="chmod 600", id="foundation.W002")]
    return []


@register("foundation")
def check_database(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """foundation.E001, E002: what the durability of jobs and messages rests on."""
    found: list[CheckMessage] = []
    for alias, database in settings.DATABASES.items():
        if database.get("ATOMIC_REQUESTS"):
            found.append(Error(f"database {alias}: ATOMIC_REQUESTS must be off", id="foundation.E001"))
        options = database.get("OPTIONS", {})
        if database["ENGINE"].endswith("sqlite3") and (
            options.get("transaction_mode") != "IMMEDIATE"
            or "synchronous=full" not in str(options.get("init_command", "")).lower().replace(" ", "")
        ):
            pragmas = "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL"
            hint = f"OPTIONS: transaction_mode IMMEDIATE and init_command {pragmas!r}"
            text = f"database {alias}: an acknowledged message could be lost"
            found.append(Error(text, hint=hint, id="foundation.E002"))
    return found


@register("foundation")
def check_data_folder(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """foundation.E003: the data folder cannot be written."""
    folder = Path(settings.ONCOFLOW_DATA_DIR)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return [Error(f"{folder} cannot be written", hint="Set ONCOFLOW_DATA_DIR.", id="foundation.E003")]
    return []
