"""WADO-RS (PS3.18 section 10.4): instances, metadata and bulk data of studies, series and instances.

Every read is recorded: one row for each caller, study and minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO

from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404
from django.http.response import HttpResponseBase
from pydicom import dcmread
from rest_framework.request import Request

from audit import services as audit
from imaging.dicom.elements import PIXEL_TAGS
from imaging.dicom.transfer_syntaxes import EXPLICIT_LITTLE
from imaging.dicomweb.base_view import DicomWebView, offered
from imaging.dicomweb.content_negotiation import MediaRange, NotAcceptable, choose_json
from imaging.dicomweb.dicom_json import element_at
from imaging.dicomweb.frame_decoding import to_explicit_little
from imaging.dicomweb.index import headers_json
from imaging.dicomweb.multipart import MultipartWriter
from imaging.dicomweb.streaming import stream
from imaging.models import PublishedInstance, Study
from oncoflow_site.foundation import objects

__all__ = ["BulkData", "Instances", "Metadata", "ResourceView"]

DICOM = "application/dicom"
OCTETS = "application/octet-stream"
_ROWS = 200  # headers decrypted at a time


class ResourceView(DicomWebView):
    """A resource below a study: finding what it holds, and the audit row of reading it."""

    def rows(
        self, request: Request, study_uid: str, series_uid: str = "", instance_uid: str = ""
    ) -> tuple[Study, QuerySet[PublishedInstance]]:
        """The study and what of it the path names, in order. :raises Http404: nothing."""
        study = self.study(request, study_uid)
        rows = offered(request.user).filter(study=study)
        if series_uid:
            rows = rows.filter(series_instance_uid=series_uid)
        if instance_uid:
            rows = rows.filter(sop_instance_uid=instance_uid)
        if not rows.exists():
            raise Http404
        return study, rows.order_by("series_number", "series_instance_uid", "number", "id")

    def record(self, study: Study) -> None:
        """Say in the audit record that the study is being read, before anything of it goes out."""
        with transaction.atomic():
            audit.record_view("dicomweb.read", resource=study.subject, patient_id=study.patient_id)


class Instances(ResourceView):
    """``/studies/{study}[/series/{series}[/instances/{instance}]]``: DICOM files as parts."""

    def get(self, request: Request, study_uid: str, series_uid: str = "", instance_uid: str = "") -> HttpResponseBase:
        """Retrieve instances."""
        ranges = self.ranges(request)
        study, rows = self.rows(request, study_uid, series_uid, instance_uid)
        stored = set(rows.order_by().values_list("transfer_syntax_uid", flat=True).distinct())
        chosen = _dicom_range(ranges, stored, single=bool(instance_uid))
        self.record(study)
        kept = _kept_syntaxes(ranges, chosen, stored)
        if chosen.type == DICOM:
            row = rows[0]
            syntax = row.transfer_syntax_uid if row.transfer_syntax_uid in kept else EXPLICIT_LITTLE
            return stream(request, _file(row, kept), f"{DICOM}; transfer-syntax={syntax}")
        writer = MultipartWriter()
        return stream(request, _parts(list(rows), writer, kept), writer.content_type(DICOM))


def _dicom_range(ranges: list[MediaRange], stored: set[str], *, single: bool) -> MediaRange:
    """The best range that can be answered. :raises NotAcceptable:"""
    for one in ranges:
        syntax = one.transfer_syntax
        possible = syntax in ("", "*", EXPLICIT_LITTLE) or stored == {syntax}
        if one.covers(DICOM) and possible and (one.multipart or (single and one.type == DICOM)):
            return one
    raise NotAcceptable('only multipart/related; type="application/dicom" as stored or in Explicit VR Little Endian')


def _kept_syntaxes(ranges: list[MediaRange], chosen: MediaRange, stored: set[str]) -> set[str]:
    """Transfer syntaxes that go out as they are stored; all others as Explicit VR Little Endian, the default."""
    if chosen.transfer_syntax == "*":
        return stored
    named = {one.transfer_syntax for one in ranges if one.covers(DICOM)}
    return (named | {EXPLICIT_LITTLE}) & stored if "*" not in named else stored


def _file(row: PublishedInstance, kept: set[str]) -> Iterator[bytes]:
    if row.transfer_syntax_uid in kept:
        yield from objects.iter_chunks(row.object)
    else:
        yield to_explicit_little(objects.get(row.object))


def _parts(rows: list[PublishedInstance], writer: MultipartWriter, kept: set[str]) -> Iterator[bytes]:
    for row in rows:
        syntax = row.transfer_syntax_uid if row.transfer_syntax_uid in kept else EXPLICIT_LITTLE
        yield from writer.part(f"{DICOM}; transfer-syntax={syntax}", _file(row, kept))
    yield writer.end()


class Metadata(ResourceView):
    """``.../metadata`` of a study, series or instance: headers as DICOM JSON, from the index, without opening a file."""

    def get(self, request: Request, study_uid: str, series_uid: str = "", instance_uid: str = "") -> HttpResponseBase:
        """Retrieve metadata."""
        media_type = choose_json(self.ranges(request))
        study, rows = self.rows(request, study_uid, series_uid, instance_uid)
        self.record(study)
        return stream(request, _headers(list(rows), self.base_url(request), study), media_type)


def _headers(rows: list[PublishedInstance], base: str, study: Study) -> Iterator[bytes]:
    yield b"["
    for begin in range(0, len(rows), _ROWS):
        chunk = rows[begin : begin + _ROWS]
        for number, (row, text) in enumerate(zip(chunk, headers_json(chunk), strict=True), start=begin):
            where = f"{base}/studies/{study.deidentified_uid}/series/{row.series_instance_uid}"
            # Inside a JSON string a quotation mark is escaped, so no text of a header can look like this.
            placed = text.replace(
                '"BulkDataURI":"bulkdata/', f'"BulkDataURI":"{where}/instances/{row.sop_instance_uid}/bulkdata/'
            )
            yield (b"," if number else b"") + placed.encode()
    yield b"]"


class BulkData(ResourceView):
    """``.../instances/{instance}/bulkdata/{path}``: what a BulkDataURI of the metadata names."""

    def get(self, request: Request, study_uid: str, series_uid: str, instance_uid: str, path: str) -> HttpResponseBase:
        """Retrieve bulk data."""
        parts = path.strip("/").upper().split("/")
        if not all(re.fullmatch(r"[0-9A-F]{8}" if i % 2 == 0 else r"[0-9]{1,6}", p) for i, p in enumerate(parts)):
            raise Http404
        ranges = self.ranges(request)
        chosen = next((one for one in ranges if one.covers(OCTETS) and one.type != "multipart/*"), None)
        if chosen is None:
            raise NotAcceptable(f"only {OCTETS}, single or as a part")
        study, rows = self.rows(request, study_uid, series_uid, instance_uid)
        row = rows[0]
        if int(parts[-1], 16) in PIXEL_TAGS and len(parts) == 1:
            pieces, length = _pixels(row)
        else:
            if len(parts) % 2 == 0:
                raise Http404
            value = self._value(row, parts)
            pieces, length = iter([value]), len(value)
        self.record(study)
        if chosen.type == OCTETS:
            return stream(request, pieces, OCTETS, length=length)
        writer = MultipartWriter()
        return stream(request, _one_part(writer, pieces), writer.content_type(OCTETS))

    def _value(self, row: PublishedInstance, parts: list[str]) -> bytes:
        element = element_at(dcmread(BytesIO(objects.get(row.object)), stop_before_pixels=True), parts)
        if element is None or not isinstance(element.value, (bytes, bytearray)):
            raise Http404
        return bytes(element.value)


def _pixels(row: PublishedInstance) -> tuple[Iterator[bytes], int | None]:
    """The value of Pixel Data: native as it lies there; compressed frames one behind another (PS3.18 section 8.7.3.6)."""
    if "pixels" in row.layout:
        offset, length = row.layout["pixels"]
        return objects.iter_chunks(row.object, start=offset, stop=offset + length), length
    fragments = [fragment for frame in row.layout.get("fragments", []) for fragment in frame]
    if not fragments:
        raise Http404

    def each() -> Iterator[bytes]:
        for offset, length in fragments:
            yield from objects.iter_chunks(row.object, start=offset, stop=offset + length)

    return each(), sum(length for _, length in fragments)


def _one_part(writer: MultipartWriter, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from writer.part(OCTETS, pieces)
    yield writer.end()
