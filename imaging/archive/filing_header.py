"""The header of a received DICOM file: what is needed to file it, read with limits, before anything is stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from io import BytesIO
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from django.conf import settings
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from clinical.identity import Identifier, IdentityData
from imaging.dicom.acquisition import HEADER_TAGS
from imaging.dicom.codestreams import wrong_size
from imaging.dicom.elements import MalformedDataSet
from imaging.dicom.file_meta import content_start, meta_values
from imaging.dicom.part10 import MEDIA_DIRECTORY, well_formed, with_known_vrs
from imaging.dicom.preflight import Layout, scan
from imaging.dicom.sop_classes import IMAGE_CLASSES

__all__ = ["BadInstance", "FilingHeader", "integer", "read_header"]

# PS3.4 Table B.2-1 status codes of C-STORE
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

MAX_BYTES = 1 << 30
MAX_VALUE = 200
MAX_IDENTIFIER = 64  # of an LO (PS3.5 Table 6.2-1)
# Defined terms of Modality (PS3.3 C.7.3.1.1.1)
_MODALITIES = (
    "AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN "
    "LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT "
    "RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
MODALITIES = frozenset(_MODALITIES.split())
# A component with a leading zero is against PS3.5 section 9.1, common, and read by every parser.
_UID = re.compile(r"\d+(\.\d+)+\Z", re.ASCII)
_FILING_TAGS = (
    "SpecificCharacterSet SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID PatientID "
    "IssuerOfPatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyDate StudyTime SeriesDate SeriesTime "
    "AcquisitionDate AcquisitionTime AcquisitionDateTime ContentDate ContentTime TimezoneOffsetFromUTC SeriesNumber "
    "InstanceNumber BurnedInAnnotation Modality ImageType"
)
_TAGS = [*HEADER_TAGS, *_FILING_TAGS.split()]
# VR by tag of what can be read off the bytes: plain text. PatientName and the like are left to the parser.
_TEXT_VRS = frozenset({"UI", "CS", "LO", "SH", "DA", "TM", "DT", "IS"})
_TEXTS: dict[str, tuple[int, str]] = {
    keyword: (tag, dictionary_VR(tag))
    for keyword in _FILING_TAGS.split()
    if (tag := tag_for_keyword(keyword)) is not None and dictionary_VR(tag) in _TEXT_VRS
}
_IDENTIFIERS = frozenset({"UI", "LO", "SH"})
_NO_TEXT = frozenset(b"AT FD FL OB OD OF OL OV OW SL SQ SS SV UL US UV".split())
_SAMPLES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280010, 0x00280011, 0x00280100
_WANTED = frozenset({*(tag for tag, _ in _TEXTS.values()), _SAMPLES, _ROWS, _COLUMNS, _BITS})


class BadInstance(Exception):
    """A data set that cannot be taken.

    :ivar status: DICOM status for the answer. :ivar reason: short, names the attribute, holds no value of it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Source(Protocol):
    def get(self, keyword: str, /) -> Any: ...


class _Texts:
    """The text attributes that file an instance, straight from the bytes; everything else from the parsed header.

    Parsing costs more than all the rest of receiving. It is done for the first instance of a series, and whenever a value
    is not plain ASCII of the VR that the standard gives it.
    """

    def __init__(self, values: Mapping[int, tuple[bytes, bytes]], parse: Callable[[], Dataset]) -> None:
        self._values = values
        self._parse = parse

    def get(self, keyword: str, /) -> Any:
        """Like `pydicom.dataset.Dataset.get`, with text (or a list of texts) for what is plain."""
        known = _TEXTS.get(keyword)
        if known is None:
            return self._parse().get(keyword)
        tag, expected = known
        vr, value = self._values.get(tag, (b"", b""))
        if not value:
            return None  # absent or empty
        if vr in _NO_TEXT and expected in _IDENTIFIERS:
            # A parser would make a text of the number, and that would be somebody's number.
            raise BadInstance(DOES_NOT_MATCH_SOP_CLASS, f"{keyword} is no text")
        if (vr and vr.decode("latin-1") != expected) or not value.isascii() or b"\x1b" in value:
            return self._parse().get(keyword)
        texts = [part.strip(" \0") for part in value.decode("ascii").split("\\")]
        return texts[0] if len(texts) == 1 else texts


@dataclass(frozen=True)
class FilingHeader:
    """What files an instance. ``repr`` shows nothing of the patient.

    :ivar content_sha256: of the data set as it came, without preamble and file meta information.
    :ivar declared: a person said whose it is, whatever name the header has.
    :ivar on_day: of ``performed_at`` only the day is known.
    :ivar doubt: why the patient it names cannot be believed; empty where nothing speaks against it.
    :ivar undated: why ``performed_at`` is None, where it is: no date at all, or which one cannot be read.
    :ivar repaired: the file as PS3.10 has it, where what was received was not (`imaging.dicom.part10`): to be stored.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    content_sha256: str
    patient_id: str = field(repr=False)
    authority: str = field(repr=False)
    accession: str = field(repr=False)
    frame_of_reference: str
    performed_at: datetime | None
    modality: str
    series_number: int | None
    instance_number: int | None
    image_type: tuple[str, ...]
    burned_in: str
    parse: Callable[[], Dataset] = field(repr=False, compare=False)
    doubt: str = ""
    declared: bool = False
    undated: str = "no study date (0008,0020)"
    repaired: bytes | None = field(default=None, repr=False, compare=False)
    on_day: bool = False

    @property
    def dataset(self) -> Dataset:
        """The attributes that recognition and registration of a patient look at, parsed when first asked for.

        :raises BadInstance: it cannot be parsed.
        """
        return self.parse()

    def identity(self) -> IdentityData:
        """Who the images say the patient is."""
        name = self.dataset.get("PatientName")
        return IdentityData(
            family=str(getattr(name, "family_name", "") or "")[:MAX_VALUE],
            given=str(getattr(name, "given_name", "") or "")[:MAX_VALUE],
            birth_date=_date(self.dataset.get("PatientBirthDate")),
            sex=_text(self.dataset, "PatientSex").upper() or "U",
            identifiers=(Identifier(self.authority, self.patient_id),),
        )


def read_header(data: bytes, *, from_network: bool = True) -> FilingHeader:
    """Read and check the header of a DICOM file (PS3.10: preamble, file meta information, data set).

    :param from_network: the file meta information repeats the C-STORE request, which must agree with the data set. On
        disk it is a container's label that tools forget to change; the data set decides.
    :raises BadInstance: not DICOM, unreadable, incomplete, or contradicting itself.
    """
    if len(data) > MAX_BYTES:
        raise BadInstance(OUT_OF_RESOURCES, "larger than this service accepts")
    received = data
    try:
        data = well_formed(data)
        start = content_start(data)
        meta = {tag: value.decode("ascii").strip(" \0") for tag, value in meta_values(data).items()}
        syntax = UID(meta.get(0x00020010, ""))
        meta_class, meta_instance = meta.get(0x00020002, ""), meta.get(0x00020003, "")
        if meta_class == MEDIA_DIRECTORY:
            raise BadInstance(CANNOT_UNDERSTAND, "a DICOMDIR, the directory of a medium: bring in the images it lists")
        if not syntax.is_transfer_syntax or syntax.is_deflated:
            raise BadInstance(CANNOT_UNDERSTAND, "transfer syntax missing or not supported")
        layout = scan(data, implicit=syntax.is_implicit_VR, little=syntax.is_little_endian, wanted=_WANTED)
        if layout.unknown:
            data = with_known_vrs(data, start, little=syntax.is_little_endian)
            layout = scan(data, implicit=syntax.is_implicit_VR, little=syntax.is_little_endian, wanted=_WANTED)
        attributes = layout.end if layout.pixels is None else layout.pixels
        header = _header(layout.values, lru_cache(1)(lambda: _parse(data, attributes)), data, start, syntax)
        if data is not received:
            header = replace(header, repaired=data)
    except BadInstance:
        raise
    except MalformedDataSet as error:
        raise BadInstance(CANNOT_UNDERSTAND, str(error)) from None
    except Exception as error:  # any parser error; its text may quote the data
        raise BadInstance(CANNOT_UNDERSTAND, f"the data set cannot be parsed ({type(error).__name__})") from None
    if from_network and (
        meta_class not in ("", header.sop_class_uid) or meta_instance not in ("", header.sop_instance_uid)
    ):
        raise BadInstance(DOES_NOT_MATCH_SOP_CLASS, "SOP Class or Instance UID differs from the request")
    if header.sop_class_uid in IMAGE_CLASSES and not layout.pixel_bytes:
        raise BadInstance(DOES_NOT_MATCH_SOP_CLASS, "an image without pixel data")
    if layout.fragments and _lies_about_its_size(data, layout, str(syntax)):
        raise BadInstance(CANNOT_UNDERSTAND, "the compressed pixels are of another size than it says")
    return header


def _lies_about_its_size(data: bytes, layout: Layout, syntax: str) -> bool:
    """Encapsulated transfer syntaxes are little endian (PS3.5 section A.4)."""

    def short(tag: int, default: int) -> int:
        vr, value = layout.values.get(tag, (b"", b""))
        return int.from_bytes(value[:2], "little") if vr in (b"", b"US") and len(value) >= 2 else default

    view = memoryview(data)
    return wrong_size(
        [view[begin:end] for begin, end in layout.fragments[1:]],
        syntax,
        columns=short(_COLUMNS, 0),
        rows=short(_ROWS, 0),
        samples=short(_SAMPLES, 1),
        bits=short(_BITS, 16),
    )


def _parse(data: bytes, attributes: int) -> Dataset:
    try:
        parsed = dcmread(BytesIO(memoryview(data)[:attributes]), specific_tags=list(_TAGS))
        for keyword in _TAGS:  # values are converted when they are looked at: look here, where it can be said
            parsed.get(keyword)
    except Exception as error:
        raise BadInstance(CANNOT_UNDERSTAND, f"the data set cannot be parsed ({type(error).__name__})") from None
    return parsed


def _header(
    values: Mapping[int, tuple[bytes, bytes]], parse: Callable[[], Dataset], data: bytes, start: int, syntax: UID
) -> FilingHeader:
    dataset = _Texts(values, parse)
    issuer = _text(dataset, "IssuerOfPatientID")
    content = hashlib.sha256(memoryview(data)[start:])
    moment, on_day = _moment(dataset)
    return FilingHeader(
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        transfer_syntax_uid=str(syntax),
        content_sha256=content.hexdigest(),
        patient_id=_text(dataset, "PatientID"),
        authority=issuer or str(settings.ONCOFLOW_ASSIGNING_AUTHORITY),
        accession=_text(dataset, "AccessionNumber"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        performed_at=moment,
        on_day=on_day,
        modality=_modality(dataset),
        series_number=integer(dataset.get("SeriesNumber")),
        instance_number=integer(dataset.get("InstanceNumber")),
        image_type=tuple(_values(dataset.get("ImageType"))),
        burned_in=_text(dataset, "BurnedInAnnotation"),
        parse=parse,
        doubt=_doubt(dataset),
        undated=_undated(dataset),
    )


def _undated(dataset: _Source) -> str:
    """Why there is no date: none was sent, or one that cannot be read (its value is not told)."""
    for name in ("Study", "Series", "Acquisition", "Content"):
        value = _text(dataset, f"{name}Date")
        if value:
            return f"{name}Date is no date " + ("that can be read" if _date(value) is None else "of an examination")
    return "no study date (0008,0020)"


def _doubt(dataset: _Source) -> str:
    """A number that is cut off or chosen from several could be somebody else's."""
    for keyword in ("PatientID", "IssuerOfPatientID"):
        values = _values(dataset.get(keyword))
        if len(values) > 1:
            return f"{keyword} has several values"
        if values and len(values[0].strip()) > MAX_IDENTIFIER:
            return f"{keyword} is longer than it may be"
    return ""


def _values(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    try:
        return [str(one) for one in value]  # type: ignore[attr-defined]
    except TypeError:
        return [str(value)]


def _text(dataset: _Source, keyword: str) -> str:
    values = _values(dataset.get(keyword))
    return values[0].strip().strip("\0")[:MAX_VALUE] if values else ""


def _uid(dataset: _Source, keyword: str) -> str:
    value = _text(dataset, keyword)
    if not value:
        raise BadInstance(DOES_NOT_MATCH_SOP_CLASS, f"{keyword} is missing")
    if len(value) > 64 or not _UID.match(value):
        raise BadInstance(CANNOT_UNDERSTAND, f"{keyword} is not a UID")
    return value


def _modality(dataset: _Source) -> str:
    """A term of the standard (PS3.3 C.7.3.1.1.1), else ``OT``: the column is not encrypted and must name nobody."""
    told = _text(dataset, "Modality").upper()
    return told if not told or told in MODALITIES else "OT"


def integer(value: object) -> int | None:
    """A value of IS or US as a number of 32 bits, signed; None where it is none."""
    try:
        number = int(str(value))
    except (TypeError, ValueError):
        return None
    return number if -(2**31) <= number < 2**31 else None


def _date(value: object) -> date | None:
    match = re.fullmatch(r"(\d{4})([-./]?)(\d{2})\2(\d{2})", str(value or "").strip(), re.ASCII)
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None


def _zone(dataset: _Source) -> tzinfo:
    match = re.fullmatch(r"([+-])(\d{2})(\d{2})", _text(dataset, "TimezoneOffsetFromUTC"))
    if match and int(match[2]) <= 14 and int(match[3]) < 60:
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    return ZoneInfo(settings.TIME_ZONE)  # type: ignore[arg-type]


def _moment(dataset: _Source) -> tuple[datetime | None, bool]:
    """When the study was made (study, series, acquisition or content date, in that order; aware), and whether only the day
    is known: the time is noon then, and none."""
    for name in ("Study", "Series", "Acquisition", "Content"):
        day = _date(_text(dataset, f"{name}Date"))
        if day is None or not 1900 <= day.year <= 2900:  # no examination, and no moment in every time zone
            continue
        match = re.match(r"(\d{2}):?(\d{2})?:?(\d{2})?", _text(dataset, f"{name}Time"))
        hour, minute, second = (min(int(part or 0), 59) for part in match.groups()) if match else (12, 0, 0)
        moment = datetime(day.year, day.month, day.day, min(hour, 23), minute, second, tzinfo=_zone(dataset))
        return moment, match is None
    match = re.match(r"(\d{8})(\d{2})?(\d{2})?(\d{2})?", _text(dataset, "AcquisitionDateTime"))
    if match and (day := _date(match[1])) and 1900 <= day.year <= 2900:
        hour = min(int(match[2] or 12), 23)
        return datetime(day.year, day.month, day.day, hour, tzinfo=_zone(dataset)), match[2] is None
    return None, False
