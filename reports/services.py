"""What other rooms and the web call."""

from __future__ import annotations

import hashlib
from typing import Any

from clinical.roles import can
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.errors import PermanentError, UserVisibleError
from reports.content.schema import ReportContent, parse_content
from reports.lifecycle.release import SEAL_REASON
from reports.lifecycle.sign_off import SIGN_REASON, sign_off, unsignable
from reports.lifecycle.versions import current_version
from reports.models import ReportVersion
from reports.signing.keyring import active_personal_key, init_signing, issue_personal_key, trust_pem
from reports.signing.verify import VerifyResult, verify

__all__ = [
    "SEAL_REASON",
    "SIGN_REASON",
    "VerifyResult",
    "current_version",
    "init_signing",
    "issue_personal_key",
    "load_content",
    "load_pdf",
    "sign_off",
    "trust_pem",
    "verify",
    "why_not_sign",
]


def load_content(version: ReportVersion) -> ReportContent:
    """The content of a version. The caller records who saw it (``report.view``).

    :raises PermanentError: the stored bytes are not those of this version.
    """
    data = objects.get(version.content)
    if hashlib.sha256(data).hexdigest() != version.content_sha256:
        raise PermanentError(f"the content of version {version.number} of report {version.report_id} was altered")
    return parse_content(data)


def load_pdf(version: ReportVersion) -> bytes:
    """The exact PDF bytes of a version. The caller records who read it (``report.pdf``).

    :raises UserVisibleError: a draft that has not been drawn yet.
    :raises PermanentError: the stored bytes are not those of this version.
    """
    if version.pdf is None:
        raise UserVisibleError(
            "This version has no PDF yet.", what_to_do="Wait until it has been released or held.", code="no-pdf"
        )
    data = objects.get(version.pdf)
    if hashlib.sha256(data).hexdigest() != version.pdf_sha256:
        raise PermanentError(f"the PDF of version {version.number} of report {version.report_id} was altered")
    return data


def why_not_sign(user: Any, version: ReportVersion) -> str:
    """Empty when ``user`` could sign ``version`` now, given the password; else the sentence that says why not.

    For showing or hiding the form; `sign_off` checks everything again.
    """
    if not can(user, "sign_report"):
        return "Only a radiologist signs reports."
    error = unsignable(version.report, version)
    if error is not None:
        return str(error)
    return "" if active_personal_key(user) else "You have no signing key. Ask an administrator to issue one."
