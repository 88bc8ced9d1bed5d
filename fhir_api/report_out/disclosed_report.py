"""Everything about one issued report version that leaves the house, read once, on the record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import Max

from clinical import services as clinical
from clinical.identity import IdentityData, OrderIdentity
from imaging.identifiers import open_study
from oncoflow_site.foundation import objects
from oncoflow_site.foundation.clock import DatedMoment, Precision, local
from oncoflow_site.foundation.errors import PermanentError
from reports.content.schema import ReportContent, parse_content
from reports.models import ReportVersion

__all__ = ["DisclosedReport", "disclose_report"]


@dataclass(frozen=True)
class DisclosedReport:
    """What a report says, and about whom.

    :param status: preliminary, final or amended. :param content: the version's content (`reports.lifecycle.assemble`).
    :param signer: (account id, name) of the radiologist; None on a preliminary report.
    :param signer_npi: the radiologist's National Provider Identifier, and the hospital's own number of them; may be empty.
    :param code: (code, text) of the procedure as ordered.
    :param replaces_number: number of the version issued before this one; 0 where there is none.
    """

    report_id: str
    version_id: str
    number: int
    status: str
    content: ReportContent
    pdf: bytes
    issued_at: datetime
    performed_at: datetime
    patient_id: str
    pseudonym: str
    identity: IdentityData
    study_id: str
    study_instance_uid: str
    order: OrderIdentity | None
    code: tuple[str, str]
    signer: tuple[str, str] | None
    hospital: str
    authority: str
    signer_npi: str = ""
    signer_employee_number: str = ""
    performed_on_day: bool = False
    replaces_number: int = 0

    @property
    def performed(self) -> DatedMoment:
        """When the study was made, as exactly as it is known."""
        return DatedMoment(self.performed_at, Precision.DAY if self.performed_on_day else Precision.TIME)

    @property
    def demo(self) -> bool:
        """Whether the report counts in the demonstration only."""
        return self.content.demo

    def __repr__(self) -> str:
        return f"DisclosedReport({self.report_id}, version {self.number})"


def _checked(data: bytes, sha256: str, what: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PermanentError(f"the stored {what} does not have the hash that was recorded when it was issued")
    return data


def disclose_report(version: ReportVersion, *, purpose: str = "delivery") -> DisclosedReport:
    """Read and check one version. Identity is revealed on the record, for ``purpose``.

    Raises `PermanentError` for a version that was not issued or whose bytes are not those that were.
    """
    if version.issued_at is None or version.pdf is None:
        raise PermanentError(f"version {version.number} of report {version.report_id} was not issued")
    report = version.report
    study, patient, order = report.study, report.patient, report.order or report.study.order
    signer = version.signer
    return DisclosedReport(
        report_id=str(report.id),
        version_id=str(version.id),
        number=version.number,
        status=version.status,
        content=parse_content(_checked(objects.get(version.content), version.content_sha256, "content")),
        pdf=_checked(objects.get(version.pdf), version.pdf_sha256, "PDF"),
        issued_at=local(version.issued_at),
        performed_at=local(study.performed_at),
        performed_on_day=study.performed_on_day,
        patient_id=str(patient.id),
        pseudonym=patient.pseudonym,
        identity=clinical.reveal_identity(clinical.current_patient(patient), purpose=purpose),
        study_id=str(study.id),
        study_instance_uid=open_study(study.key_subject, bytes(study.ciphertext)).study_instance_uid,
        order=clinical.reveal_order(order, purpose=purpose) if order else None,
        code=(order.procedure_code, order.procedure_text) if order else ("", ""),
        signer=(str(signer.pk), signer.get_full_name() or signer.get_username()) if signer else None,
        hospital=str(settings.ONCOFLOW_HOSPITAL_NAME),
        authority=str(settings.ONCOFLOW_ASSIGNING_AUTHORITY),
        replaces_number=report.versions.filter(issued_at__isnull=False, number__lt=version.number).aggregate(
            last=Max("number")
        )["last"]
        or 0,
        signer_npi=signer.npi if signer else "",
        signer_employee_number=signer.employee_number if signer else "",
    )
