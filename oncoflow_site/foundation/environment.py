"""What the environment says, read once by the settings: variables, secrets in files, databases and storages by their URL.

Pure Python and Django's own errors: nothing here needs settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Required, TypedDict
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

__all__ = [
    "Database",
    "PanelEntry",
    "Storage",
    "database_from_url",
    "env",
    "env_bool",
    "env_list",
    "env_number",
    "storage",
]


def env(name: str, default: str | None = None) -> str | None:
    """Value of ``name``, or the content of the file that ``name_FILE`` names, or ``default``."""
    path = os.environ.get(f"{name}_FILE")
    if path:
        return Path(path).read_text(encoding="utf-8").strip()
    return os.environ.get(name, default)


def env_bool(name: str, default: bool = False) -> bool:
    """A switch. :raises ImproperlyConfigured: neither true nor false."""
    value = (env(name) or "").strip().lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")


def env_number(name: str, default: float) -> float:
    """A number; ``default`` where there is none or an empty one. :raises ImproperlyConfigured: no number."""
    value = env(name)
    try:
        return default if value in (None, "") else float(str(value))
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a number, not {value!r}.") from error


def env_list(name: str, default: str = "") -> list[str]:
    """Parts between commas, without empty ones."""
    return [part.strip() for part in (env(name, default) or "").split(",") if part.strip()]


SQLITE_PRAGMAS = (
    # FULL, not NORMAL: in WAL mode NORMAL may lose the last commits on power loss, after they were acknowledged.
    "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA foreign_keys=ON;PRAGMA temp_store=MEMORY;"
)


class Database(TypedDict, total=False):
    """One of Django's ``DATABASES``."""

    ENGINE: str
    NAME: str
    USER: str
    PASSWORD: str
    HOST: str
    PORT: str
    CONN_HEALTH_CHECKS: bool
    CONN_MAX_AGE: int
    OPTIONS: Mapping[str, object]
    TEST: Mapping[str, object]


def database_from_url(url: str) -> Database:
    """Django's settings for ``sqlite:///path`` or ``postgresql://user:password@host:port/name``."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": unquote(parts.path[1:]) if parts.path.startswith("//") else unquote(parts.path),
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": SQLITE_PRAGMAS},
        }
    if parts.scheme in {"postgresql", "postgres"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": env("DATABASE_PASSWORD") or unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
            "CONN_HEALTH_CHECKS": True,
            "CONN_MAX_AGE": 60,
        }
    raise ImproperlyConfigured("DATABASE_URL must begin with sqlite:/// or postgresql://.")


class Storage(TypedDict, total=False):
    """One of Django's ``STORAGES``."""

    BACKEND: str
    OPTIONS: Mapping[str, object]


def storage(purpose: str, folder: Path, *, prefix: str = "", otherwise: str = "") -> Storage:
    """The storage that ``ONCOFLOW_<purpose>_*`` describes: an S3 bucket, an Azure container, else the local ``folder``.

    :param prefix: names begin with it in a bucket or container, where ``ONCOFLOW_<purpose>_PREFIX`` says nothing else.
    :param otherwise: a second purpose, whose bucket or container serves where this one has none.
    """
    for name in (purpose, otherwise):
        location = (env(f"ONCOFLOW_{purpose}_PREFIX") or prefix).strip("/")
        if bucket := env(f"ONCOFLOW_{name}_S3_BUCKET"):
            endpoint = env(f"ONCOFLOW_{name}_S3_ENDPOINT")
            options: dict[str, object] = {
                "bucket_name": bucket,
                "endpoint_url": endpoint,
                "region_name": env(f"ONCOFLOW_{name}_S3_REGION") or env("AWS_DEFAULT_REGION") or "us-east-1",
                "addressing_style": "path" if endpoint else "auto",
                "signature_version": "s3v4",
                "location": location,
                "file_overwrite": False,
                "default_acl": None,
                "object_parameters": {"ServerSideEncryption": "AES256"},
            }
            if key := env(f"ONCOFLOW_{name}_S3_KMS_KEY"):
                options["object_parameters"] = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
            return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        if container := env(f"ONCOFLOW_{name}_AZURE_CONTAINER"):
            options = {"azure_container": container, "location": location, "overwrite_files": False}
            for option, variable in (
                ("connection_string", "CONNECTION_STRING"),
                ("account_name", "ACCOUNT"),
                ("account_key", "ACCOUNT_KEY"),
            ):
                if value := env(f"ONCOFLOW_{name}_AZURE_{variable}"):
                    options[option] = value
            return {"BACKEND": "storages.backends.azure_storage.AzureStorage", "OPTIONS": options}
    return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(folder)}}


class PanelEntry(TypedDict, total=False):
    """One expert of ``ONCOFLOW_PANEL``; see `oncoflow_site.settings.panel_from`."""

    name: Required[str]
    kind: Required[str]
    weights_dir: Required[str]
    device: str
    threads: int
    sha256: str
    factory: str
    needs: list[str]
