"""Settings of OncoFlow: the embedded default, and production by environment variables.

Every secret may come from the variable itself or from a file named by the variable plus ``_FILE``. What an operator can set is
listed in docs/operations.md.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from oncoflow_site.foundation.environment import (
    PanelEntry,
    Storage,
    database_from_url,
    env,
    env_bool,
    env_list,
    env_number,
    storage,
)

BASE_DIR = Path(__file__).resolve().parent.parent


TESTING = "pytest" in sys.modules

# --- where things live ------------------------------------------------------------------------------------------------

if TESTING:
    # A test never touches the installation's own data; pytest-django reads settings before any conftest could say so.
    ONCOFLOW_DATA_DIR = Path(tempfile.mkdtemp(prefix="oncoflow-tests-"))
    atexit.register(shutil.rmtree, ONCOFLOW_DATA_DIR, ignore_errors=True)
else:
    ONCOFLOW_DATA_DIR = Path(env("ONCOFLOW_DATA_DIR") or BASE_DIR / "var").absolute()
ONCOFLOW_RUN_DIR = Path((not TESTING and env("ONCOFLOW_RUN_DIR")) or ONCOFLOW_DATA_DIR / "run").absolute()
ONCOFLOW_KEYSET = Path((not TESTING and env("ONCOFLOW_KEYSET")) or ONCOFLOW_DATA_DIR / "keys" / "keysets.json")
ONCOFLOW_DEMO_MODE = env_bool("ONCOFLOW_DEMO_MODE", default=TESTING)

DEBUG = env_bool("DJANGO_DEBUG", default=False)


def _secret_key() -> str:
    """The configured key; embedded installations keep a random one beside the keysets (created by ``init_keys``)."""
    given = env("DJANGO_SECRET_KEY")
    if given:
        return given
    kept = ONCOFLOW_DATA_DIR / "keys" / "django-secret-key"
    if kept.exists():
        return kept.read_text(encoding="ascii").strip()
    # Nothing that must survive a restart is signed before init_keys has run: a throw-away key lets commands start.
    return f"unset-{os.urandom(32).hex()}"


SECRET_KEY = _secret_key()
ALLOWED_HOSTS = env_list("ONCOFLOW_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" + (",testserver" if TESTING else ""))
CSRF_TRUSTED_ORIGINS = env_list("ONCOFLOW_TRUSTED_ORIGINS")

# --- hospital ---------------------------------------------------------------------------------------------------------

ONCOFLOW_HOSPITAL_NAME = env("ONCOFLOW_HOSPITAL_NAME", "OncoFlow Demo Hospital")
ONCOFLOW_ASSIGNING_AUTHORITY = env("ONCOFLOW_ASSIGNING_AUTHORITY", "DEMOHOSP")
ONCOFLOW_IDENTIFIER_SYSTEM = env("ONCOFLOW_IDENTIFIER_SYSTEM", "https://demo-hospital.example/fhir/identifier")
ONCOFLOW_BASE_URL = env("ONCOFLOW_BASE_URL", "http://127.0.0.1:8000")
# A merge of two patients' records by hand waits for a second person.
ONCOFLOW_MERGE_SECOND_PERSON = env_bool("ONCOFLOW_MERGE_SECOND_PERSON")
ONCOFLOW_PSEUDONYMOUS_REPORTS = env_bool("ONCOFLOW_PSEUDONYMOUS_REPORTS")

# --- applications -----------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "oncoflow_site.foundation",
    "audit",
    "clinical",
    "imaging",
    "inference",
    "reports",
    "fhir_api",
    "oncoflow_site.web",
    "oncoflow_site.demo",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "guardian",
    "django_otp",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "oncoflow_site.foundation.request_id.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "audit.middleware.ActorMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "oncoflow_site.web.middleware.SecurityHeadersMiddleware",
]

ROOT_URLCONF = "oncoflow_site.urls"
ASGI_APPLICATION = "oncoflow_site.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "oncoflow_site.web.context.site",
            ],
        },
    },
]

AUTH_USER_MODEL = "clinical.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
GUARDIAN_MONKEY_PATCH_USER = False
ANONYMOUS_USER_NAME = None
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

# --- state ------------------------------------------------------------------------------------------------------------

DATABASES = {"default": database_from_url(env("DATABASE_URL") or f"sqlite://{ONCOFLOW_DATA_DIR / 'oncoflow.sqlite3'}")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A test database on disk: several connections (threads, worker processes) must see the same rows.
    DATABASES["default"]["TEST"] = {"NAME": str(ONCOFLOW_DATA_DIR / "test.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env("REDIS_URL")
CACHES: dict[str, dict[str, str]] = {
    "default": (
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
        if REDIS_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    )
}


STORAGES: dict[str, Storage] = {
    "default": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(ONCOFLOW_DATA_DIR / "files")},
    },
    "objects": storage("OBJECTS", ONCOFLOW_DATA_DIR / "objects"),
    # Where clients put files directly by a signed address; a local folder is never one: our own door takes them then.
    "staging": storage("STAGING", ONCOFLOW_DATA_DIR / "staging", prefix="staging", otherwise="OBJECTS"),
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if TESTING
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
# What lands here is brought in by `manage.py watch_intake`.
ONCOFLOW_INTAKE_FOLDER = env("ONCOFLOW_INTAKE_FOLDER")
if any(env(f"ONCOFLOW_INTAKE_{name}") for name in ("FOLDER", "S3_BUCKET", "AZURE_CONTAINER")):
    STORAGES["intake"] = storage("INTAKE", Path(ONCOFLOW_INTAKE_FOLDER or "").absolute())

ONCOFLOW_INTAKE_AFTER = env("ONCOFLOW_INTAKE_AFTER", "delete")
if ONCOFLOW_INTAKE_AFTER not in ("delete", "done"):
    raise ImproperlyConfigured("ONCOFLOW_INTAKE_AFTER must be delete or done.")
ONCOFLOW_INTAKE_POLL_SECONDS = env_number("ONCOFLOW_INTAKE_POLL_SECONDS", 5)
ONCOFLOW_INTAKE_STABLE_SECONDS = env_number("ONCOFLOW_INTAKE_STABLE_SECONDS", 10)
ONCOFLOW_INTAKE_WAIT_SECONDS = env_number("ONCOFLOW_INTAKE_WAIT_SECONDS", 3600)
ONCOFLOW_INTAKE_SWEEP_SECONDS = env_number("ONCOFLOW_INTAKE_SWEEP_SECONDS", 600)
ONCOFLOW_INTAKE_SQS_URL = env("ONCOFLOW_INTAKE_SQS_URL")
ONCOFLOW_INTAKE_SQS_ENDPOINT = env("ONCOFLOW_INTAKE_SQS_ENDPOINT")

# --- web --------------------------------------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = ONCOFLOW_DATA_DIR / "static"
WHITENOISE_USE_FINDERS = True
LANGUAGE_CODE = "en-gb"
TIME_ZONE = env("ONCOFLOW_TIME_ZONE", "UTC")
USE_TZ = True
USE_I18N = True
APPEND_SLASH = True

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 8 * 3600
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env_bool("ONCOFLOW_HTTPS", default=False)
if env_bool("ONCOFLOW_BEHIND_PROXY"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "SAMEORIGIN"
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 << 20

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "fhir_api.access.auth.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "OncoFlow API",
    "VERSION": "0.1.0",
    "DESCRIPTION": "Decision support, never a diagnosis.",
    "SERVE_INCLUDE_SCHEMA": False,
    # The interface's own files, served from here: no page of ours loads anything from elsewhere.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# --- doors and pipeline -----------------------------------------------------------------------------------------------

ONCOFLOW_WEB_HOST = env("ONCOFLOW_WEB_HOST", "127.0.0.1")
ONCOFLOW_WEB_PORT = int(env_number("ONCOFLOW_WEB_PORT", 8000))
ONCOFLOW_MLLP_HOST = env("ONCOFLOW_MLLP_HOST", "127.0.0.1")
ONCOFLOW_MLLP_PORT = int(env_number("ONCOFLOW_MLLP_PORT", 2575))
ONCOFLOW_DICOM_HOST = env("ONCOFLOW_DICOM_HOST", "127.0.0.1")
ONCOFLOW_DICOM_PORT = int(env_number("ONCOFLOW_DICOM_PORT", 11112))
ONCOFLOW_DICOM_AE_TITLE = env("ONCOFLOW_DICOM_AE_TITLE", "ONCOFLOW")
# TLS is a second port beside the plain one; with an authority, peers must show a certificate of it.
ONCOFLOW_DICOM_TLS_PORT = int(env_number("ONCOFLOW_DICOM_TLS_PORT", 2762))
ONCOFLOW_DICOM_TLS_CERTIFICATE = env("ONCOFLOW_DICOM_TLS_CERTIFICATE", "")
ONCOFLOW_DICOM_TLS_KEY = env("ONCOFLOW_DICOM_TLS_KEY", "")
ONCOFLOW_DICOM_TLS_CA = env("ONCOFLOW_DICOM_TLS_CA", "")
ONCOFLOW_DICOM_MAX_ASSOCIATIONS = int(env_number("ONCOFLOW_DICOM_MAX_ASSOCIATIONS", 32))
ONCOFLOW_DICOM_MAX_BYTES_IN_FLIGHT = int(env_number("ONCOFLOW_DICOM_MAX_BYTES_IN_FLIGHT", 2 << 30))
ONCOFLOW_DICOM_ANSWER_SECONDS = env_number("ONCOFLOW_DICOM_ANSWER_SECONDS", 120)
# Earlier studies that are fetched when an order arrives: the latest so many, not older than so many years.
ONCOFLOW_PRIORS_MAX = int(env_number("ONCOFLOW_PRIORS_MAX", 4))
ONCOFLOW_PRIORS_YEARS = env_number("ONCOFLOW_PRIORS_YEARS", 5)
ONCOFLOW_DISCARD_DAYS = env_number("ONCOFLOW_DISCARD_DAYS", 30)
ONCOFLOW_STUDY_QUIET_SECONDS = env_number("ONCOFLOW_STUDY_QUIET_SECONDS", 60)
# classical, hd-bet (the command), or module:function; see imaging/preprocessing/brain_extraction_tools.py
ONCOFLOW_BRAIN_MASK = env("ONCOFLOW_BRAIN_MASK", "classical") or "classical"
# With it, viewers and clients are offered images without faces only; see docs/deidentification.md.
ONCOFLOW_DEFACE = env_bool("ONCOFLOW_DEFACE")
ONCOFLOW_MIN_FREE_BYTES = int(env_number("ONCOFLOW_MIN_FREE_BYTES", 512 << 20))

ONCOFLOW_UPLOAD_MAX_BYTES = int(env_number("ONCOFLOW_UPLOAD_MAX_BYTES", 16 << 30))
ONCOFLOW_UPLOAD_MAX_FILES = int(env_number("ONCOFLOW_UPLOAD_MAX_FILES", 20_000))
ONCOFLOW_UPLOAD_QUOTA_BYTES = int(env_number("ONCOFLOW_UPLOAD_QUOTA_BYTES", 64 << 30))
ONCOFLOW_PRESIGN_SECONDS = int(env_number("ONCOFLOW_PRESIGN_SECONDS", 900))
ONCOFLOW_STAGING_HOURS = env_number("ONCOFLOW_STAGING_HOURS", 24)

ONCOFLOW_VIEWER_DIR = Path(str(env("ONCOFLOW_VIEWER_DIR"))) if env("ONCOFLOW_VIEWER_DIR") else None


def _retention(text: str) -> dict[str, int]:
    """``kind=days`` entries as a table; a kind that is not in it is kept."""
    table = {}
    for entry in filter(None, (one.strip() for one in text.split(","))):
        kind, _, days = (part.strip() for part in entry.partition("="))
        if days == "keep":
            continue
        if not kind or not days.isdigit() or int(days) < 1:
            raise ImproperlyConfigured(f"ONCOFLOW_RETENTION: {entry!r} must be KIND=DAYS (at least 1) or KIND=keep.")
        table[kind] = int(days)
    return table


ONCOFLOW_RETENTION = _retention(env("ONCOFLOW_RETENTION") or "")

ONCOFLOW_RETRIEVAL = env("ONCOFLOW_RETRIEVAL", "memory")
ELASTICSEARCH_URL = env("ELASTICSEARCH_URL")
# A document written later than so many days after a study is no context of its report.
ONCOFLOW_CONTEXT_DAYS = int(env_number("ONCOFLOW_CONTEXT_DAYS", 3))

ONCOFLOW_WEIGHTS_DIR = Path(env("ONCOFLOW_WEIGHTS_DIR") or BASE_DIR / "inference" / "weights")
_DEMO_PANEL: list[PanelEntry] = [
    {"name": "nnunet-plain", "kind": "nnunet", "weights_dir": "nnunet-plain"},
    {"name": "nnunet-residual", "kind": "nnunet", "weights_dir": "nnunet-residual"},
    {"name": "sam2-small", "kind": "sam", "weights_dir": "sam2-small"},
]


def panel_from(text: str | None) -> list[PanelEntry]:
    """The panel's experts of ``ONCOFLOW_PANEL`` (JSON; ``ONCOFLOW_PANEL_FILE`` names a file of it), else the demo panel.

    A list of objects: name, kind and weights_dir (relative to ``ONCOFLOW_WEIGHTS_DIR``), and where wanted device, threads,
    sha256 (of its model.json), factory ("module:callable", for an expert of one's own) and needs (the sequences without which
    it cannot run, for example ["T1c"]; see `inference.experts.common.input_requirements` for what holds without it).
    """
    try:
        entries = json.loads(text) if text else _DEMO_PANEL
    except ValueError as error:
        raise ImproperlyConfigured(f"ONCOFLOW_PANEL is no JSON: {error}") from error
    needed, allowed = {"name", "kind", "weights_dir"}, {"device", "threads", "sha256", "factory", "needs"}
    panel: list[PanelEntry] = []
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or not needed <= entry.keys() <= needed | allowed:
            raise ImproperlyConfigured(
                f"ONCOFLOW_PANEL is a list of objects with {', '.join(sorted(needed))}, and perhaps "
                f"{', '.join(sorted(allowed))}; this is none: {str(entry)[:200]}"
            )
        panel.append({**entry, "weights_dir": str(ONCOFLOW_WEIGHTS_DIR / entry["weights_dir"])})
    if len({one["name"] for one in panel}) != len(panel):
        raise ImproperlyConfigured("ONCOFLOW_PANEL names an expert twice.")
    return panel


ONCOFLOW_PANEL: list[PanelEntry] = panel_from(env("ONCOFLOW_PANEL"))
ONCOFLOW_FUSION = env("ONCOFLOW_FUSION", "majority")
ONCOFLOW_EXPERT_THREADS = int(env_number("ONCOFLOW_EXPERT_THREADS", 2))
ONCOFLOW_EXPERTS_AT_ONCE = int(env_number("ONCOFLOW_EXPERTS_AT_ONCE", 1))
ONCOFLOW_EXPERT_DEADLINE_S = env_number("ONCOFLOW_EXPERT_DEADLINE_S", 600)
ONCOFLOW_REFINE_EXPERT = env("ONCOFLOW_REFINE_EXPERT")
ONCOFLOW_REFINE_DEADLINE_S = env_number("ONCOFLOW_REFINE_DEADLINE_S", 60)
ONCOFLOW_SUPERVISOR_ADDRESS = env("ONCOFLOW_SUPERVISOR_ADDRESS") or str(ONCOFLOW_RUN_DIR / "supervisor.sock")
# Decoded volumes and outlines that a web process holds for its pictures of slices; 0: none.
ONCOFLOW_SLICE_CACHE_MIB = int(env_number("ONCOFLOW_SLICE_CACHE_MIB", 256))
ONCOFLOW_SUPERVISOR_MEMORY_MIB = int(env_number("ONCOFLOW_SUPERVISOR_MEMORY_MIB", 0))
ONCOFLOW_SUPERVISOR_KEY = Path(env("ONCOFLOW_SUPERVISOR_KEY") or ONCOFLOW_RUN_DIR / "supervisor.key")
ONCOFLOW_GATE = {
    "issue": env_number("ONCOFLOW_GATE_ISSUE", 0.90),
    "hold": env_number("ONCOFLOW_GATE_HOLD", 0.75),
    "adviser_floor": env_number("ONCOFLOW_GATE_ADVISER_FLOOR", 0.50),
}
ONCOFLOW_VOTE_THRESHOLDS = {
    "cases": int(env_number("ONCOFLOW_VOTE_CASES", 20)),
    "mean_dice": env_number("ONCOFLOW_VOTE_MEAN_DICE", 0.85),
    "p10_dice": env_number("ONCOFLOW_VOTE_P10_DICE", 0.70),
}

_manage = [sys.executable, str(BASE_DIR / "manage.py")]
ONCOFLOW_PROCESSES: dict[str, list[str]] = {
    "web": [
        *(sys.executable, "-m", "uvicorn", "oncoflow_site.asgi:application", "--no-access-log", "--no-server-header"),
        *("--host", str(ONCOFLOW_WEB_HOST), "--port", str(ONCOFLOW_WEB_PORT), "--timeout-graceful-shutdown", "3"),
    ],
    "mllp": [*_manage, "mllp_listener", "--host", str(ONCOFLOW_MLLP_HOST), "--port", str(ONCOFLOW_MLLP_PORT)],
    "dicom": [*_manage, "dicom_listener", "--host", str(ONCOFLOW_DICOM_HOST), "--port", str(ONCOFLOW_DICOM_PORT)],
    "supervisor": [*_manage, "inference_supervisor"],
    "work-default": [*_manage, "work", "--queue", "default"],
    "work-gpu": [*_manage, "work", "--queue", "gpu"],
    "work-delivery": [*_manage, "work", "--queue", "delivery"],
}
if "intake" in STORAGES:
    ONCOFLOW_PROCESSES["intake"] = [*_manage, "watch_intake"]
# What jobs need beside a worker: a command that works off jobs itself starts these for as long as it runs.
ONCOFLOW_JOB_COMPANIONS: tuple[str, ...] = ("supervisor",)

# --- logs: a request id on every line, never a name, a number or a URL's query ------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "oncoflow_site.foundation.request_id.RequestIdFilter"}},
    "formatters": {
        "line": {
            "()": "oncoflow_site.foundation.log_format.FramesFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}},
    "root": {"handlers": ["console"], "level": env("ONCOFLOW_LOG_LEVEL", "INFO")},
    "loggers": {
        "huey": {"level": "WARNING"},
        "pynetdicom": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        # Addresses of objects: in a watched bucket their names are other people's.
        "azure": {"level": "ERROR"},
        "botocore": {"level": "ERROR"},
        "boto3": {"level": "ERROR"},
        "s3transfer": {"level": "ERROR"},
        "urllib3": {"level": "ERROR"},
        "pyhanko": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "pydicom": {"level": "ERROR"},
        "highdicom": {"level": "ERROR"},  # below, it tells the UIDs of what it works on
    },
}

for _name in ("HAYSTACK_TELEMETRY_ENABLED",):
    os.environ.setdefault(_name, "False")
# Nothing is ever fetched silently from a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
