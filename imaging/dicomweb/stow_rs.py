"""STOW-RS (PS3.18 section 10.5): instances in, each durable before it is named as stored.

What is taken goes through `imaging.archive.store_instance` like everything from the scanner. It is offered again, under its
de-identified UIDs, once it is de-identified; so the answer names no address to retrieve it at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, cast

from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from pydicom import dcmread
from rest_framework.request import Request

from audit import services as audit
from imaging.archive.filing_header import MAX_BYTES, BadInstance, read_header
from imaging.archive.store_instance import ReceiveCache, StoredInstance, store_instance
from imaging.dicom.file_meta import content_start
from imaging.dicomweb.base_view import DicomWebView, problem, warning
from imaging.dicomweb.content_negotiation import choose_json, parse_media_type
from imaging.dicomweb.dicom_json import DicomJson
from imaging.dicomweb.multipart import MultipartError, Part, read_parts
from imaging.dicomweb.qido_rs import SearchStudies
from imaging.dicomweb.wado_rs import DICOM, Instances
from imaging.identifiers import map_uid
from imaging.models import StudySource

__all__ = ["OneStudy", "Studies"]

MAX_PARTS = 20_000  # each refused one leaves a row; a study of that many is sent in several requests
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


@dataclass
class _Outcome:
    """The Store Instances Response Module (PS3.18 Table I.2-1) in the making."""

    stored: list[DicomJson] = field(default_factory=list)
    failed: list[DicomJson] = field(default_factory=list)
    other: list[DicomJson] = field(default_factory=list)
    reasons: set[int] = field(default_factory=set)
    too_large: int = 0
    quarantined: int = 0

    def add(self, sop_class: str, sop_instance: str, result: StoredInstance) -> None:
        """One instance."""
        item: DicomJson = {}
        if sop_class and sop_instance:
            item["00081150"] = {"vr": "UI", "Value": [sop_class]}
            item["00081155"] = {"vr": "UI", "Value": [sop_instance]}
        if result.status == SUCCESS:
            self.quarantined += result.quarantined
            self.stored.append(item)
            return
        self.reasons.add(result.status)
        item["00081197"] = {"vr": "US", "Value": [result.status]}
        (self.failed if "00081155" in item else self.other).append(item)

    def status(self) -> int:
        """PS3.18 Table 10.5.3-1."""
        if not self.failed and not self.other:
            return 200
        if self.stored:
            return 202
        if self.too_large:
            return 413
        return 503 if self.reasons == {OUT_OF_RESOURCES} else 409

    def json(self) -> DicomJson:
        """As DICOM JSON."""
        sequences = (("00081198", self.failed), ("00081199", self.stored), ("0008119A", self.other))
        return {tag: {"vr": "SQ", "Value": items} for tag, items in sequences if items}


def _uids(data: bytes) -> tuple[str, str]:
    """SOP Class and Instance UID as the file meta information says, for the answer only; empty where it does not."""
    try:
        meta = dcmread(BytesIO(memoryview(data)[: content_start(data)])).file_meta
        return str(meta.get("MediaStorageSOPClassUID", ""))[:64], str(meta.get("MediaStorageSOPInstanceUID", ""))[:64]
    except Exception:  # any parser error
        return "", ""


def _take(part: Part, study_uid: str, peer: str, cache: ReceiveCache, outcome: _Outcome) -> None:
    if part.content is None:
        outcome.too_large += 1
        outcome.add("", "", StoredInstance(OUT_OF_RESOURCES, "larger than this service accepts"))
        return
    try:
        media_type = parse_media_type(part.headers.get("content-type", DICOM)).type
    except ValueError:
        media_type = ""
    if media_type != DICOM:
        outcome.add("", "", StoredInstance(CANNOT_UNDERSTAND, "a part that is not application/dicom"))
        return
    uids = _uids(part.content)
    if study_uid:
        try:
            header = read_header(part.content, from_network=False)
        except BadInstance as error:
            outcome.add(*uids, StoredInstance(error.status, error.reason))
            return
        if study_uid not in (header.study_uid, map_uid(header.study_uid)):
            outcome.add(*uids, StoredInstance(DOES_NOT_MATCH, "it belongs to another study than the address says"))
            return
    outcome.add(*uids, store_instance(part.content, source=StudySource.STOW, peer=peer, cache=cache))


class _Store(DicomWebView):
    def store(self, request: Request, study_uid: str = "") -> HttpResponseBase:
        """Read the body part by part and store each."""
        media_type = choose_json(self.ranges(request))
        try:
            sent = parse_media_type(request.headers.get("Content-Type", ""))
        except ValueError:
            return problem(415, "Content-Type cannot be read.")
        if sent.type != "multipart/related" or sent.inner != DICOM:
            return problem(415, f'Only multipart/related; type="{DICOM}" is taken.')
        peer, cache, outcome = str(request.user.get_username())[:64], ReceiveCache(), _Outcome()
        # The body itself: DRF would hand it to a parser, which would want all of it.
        stream = cast(IO[bytes], request._request)
        broken = ""
        try:
            parts = read_parts(stream, sent.parameters.get("boundary", ""), largest=MAX_BYTES)
            for number, part in enumerate(parts, start=1):
                if number > MAX_PARTS:
                    broken = f"it has more than {MAX_PARTS} parts; the rest was not read"
                    break
                _take(part, study_uid, peer, cache, outcome)
        except MultipartError as error:
            broken = str(error)
        with transaction.atomic():
            audit.record(
                "dicomweb.store",
                action="C",
                resource="dicomweb",
                outcome=0 if outcome.status() == 200 and not broken else 4,
                detail={
                    "stored": len(outcome.stored),
                    "refused": len(outcome.failed) + len(outcome.other),
                    "quarantined": outcome.quarantined,
                },
            )
        if not outcome.stored and not outcome.failed and not outcome.other:
            return problem(400, f"The body holds no instance{f': {broken}' if broken else ''}.")
        # Cut short: what came whole is stored and named, and the status says that it was not all.
        status = (202 if outcome.stored else 400) if broken else outcome.status()
        response = HttpResponse(
            json.dumps(outcome.json(), separators=(",", ":")), status=status, content_type=media_type
        )
        warnings = [f"The body is broken: {broken}."] if broken else []
        if outcome.quarantined:
            warnings.append(f"{outcome.quarantined} instances are stored in quarantine.")
        if warnings:
            response.headers["Warning"] = ", ".join(warning(text) for text in warnings)
        if status == 503:
            response.headers["Retry-After"] = "60"
        return response


def _by_method(view: DicomWebView, request: Request) -> str:
    return "c" if request.method == "POST" else view.interaction


class Studies(SearchStudies, _Store):
    """``/studies``: search (GET) and store (POST)."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.interaction = _by_method(self, request)
        super().initial(request, *args, **kwargs)

    def post(self, request: Request) -> HttpResponseBase:
        """Store instances of any study."""
        return self.store(request)


class OneStudy(Instances, _Store):
    """``/studies/{study}``: retrieve (GET) and store (POST)."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.interaction = _by_method(self, request)
        super().initial(request, *args, **kwargs)

    def post(self, request: Request, study_uid: str) -> HttpResponseBase:
        """Store instances of this study, named by its UID as the senders know it."""
        return self.store(request, study_uid)
