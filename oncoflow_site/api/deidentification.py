"""What de-identification did to a study: for those who may see its patient, and for compliance officers. No values in it."""

from __future__ import annotations

import uuid

from django.db import transaction
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from audit.services import Actor, record
from clinical.roles import can
from imaging.deidentification.report import faces_of, readable
from imaging.models import Study
from oncoflow_site.api.identity_answers import DeidentificationAnswer
from oncoflow_site.api.studies import Base
from oncoflow_site.foundation.schema import plain

__all__ = ["DeidentificationReports"]

EVENT = "deidentification.read"


class DeidentificationReports(Base):
    """Reports of a study, newest first: profile, table edition, codes, pixels, and per attribute what was done how often;
    and what became of the face in each series."""

    @extend_schema(responses={200: DeidentificationAnswer})
    def get(self, request: Request, study_id: uuid.UUID) -> Response:
        if can(request.user, "read_audit"):  # the report names nobody: officers need no patient for it
            study = Study.objects.filter(pk=study_id).first()
            if study is None:
                raise Http404
        else:
            study = self.study(request, study_id, EVENT)
        with transaction.atomic():
            reports = [readable(one) for one in study.deidentification_reports.all()]
            faces = faces_of(study)
            record(
                EVENT,
                action="R",
                resource=study.subject,
                patient_id=study.patient_id,
                actor=Actor.user(request.user),
            )
        body = DeidentificationAnswer.model_validate({"study": str(study.id), "reports": reports, "faces": faces})
        return Response(plain(body))
