"""The header of a stored DICOM file as DICOM JSON (PS3.18 Annex F), and where its frames lie. Knows no database."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Required, TypedDict, cast

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from imaging.dicom.elements import PIXEL_TAGS, MalformedDataSet
from imaging.dicom.file_meta import content_start
from imaging.dicom.preflight import Layout, scan
from imaging.dicom.written_file import WrittenFile
from oncoflow_site.foundation.errors import EngineError

__all__ = [
    "BULK_FROM",
    "DicomElement",
    "DicomJson",
    "PixelLayout",
    "Published",
    "Unpublishable",
    "element_at",
    "published_from",
    "read_published",
]

BULK_FROM = 4096
"""Binary values longer than this are bulk data: a URI in the metadata. Pixel data always are."""
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


class DicomElement(TypedDict, total=False):
    """One attribute in the DICOM JSON Model (PS3.18 section F.2.2); the Value of a sequence is a list of `DicomJson`."""

    vr: Required[str]
    Value: list[Any]
    BulkDataURI: str
    InlineBinary: str


DicomJson = dict[str, DicomElement]
"""A data set in the DICOM JSON Model: eight hexadecimal digits of a tag -> attribute."""


class PixelLayout(TypedDict, total=False):
    """Where the pixels of a file lie; see `Published`."""

    pixels: list[int]
    bits: int
    frame_pixels: int
    fragments: list[list[list[int]]]


class Unpublishable(EngineError):
    """The file cannot be offered; the message holds nothing of it."""


@dataclass(frozen=True)
class Published:
    """What the index keeps of one file.

    :param dataset: header elements, without pixel data.
    :param json: DICOM JSON of the header; bulk data as ``"BulkDataURI":"bulkdata/..."``, relative to the instance.
    :param layout: ``{}`` without pixels; bytes count from the start of the file. Native: ``{"pixels": [offset, length],
        "bits": allocated for a sample, "frame_pixels": samples of a frame}``. Encapsulated: ``{"fragments": [[[offset,
        length], ...], ...]}``, the fragments of each frame.
    :param frames: number of frames, 0 without pixel data.
    """

    dataset: Dataset
    json: str
    layout: PixelLayout
    frames: int
    transfer_syntax_uid: str


def read_published(data: bytes) -> Published:
    """Read a DICOM file (PS3.10) that this service stored.

    :raises Unpublishable: unreadable, or the pixels are not what the header says.
    """
    try:
        syntax = UID(str(dcmread(BytesIO(memoryview(data)[: content_start(data)])).file_meta.TransferSyntaxUID))
        walked = scan(data, implicit=syntax.is_implicit_VR, little=syntax.is_little_endian)
        end = walked.end if walked.pixels is None else walked.pixels
        dataset = dcmread(BytesIO(memoryview(data)[:end]))
    except MalformedDataSet as error:
        raise Unpublishable(str(error)) from None
    except Exception as error:  # any parser error; its text may quote the data
        raise Unpublishable(f"the header cannot be written as DICOM JSON ({type(error).__name__})") from None
    return _published(data, dataset, walked, syntax)


def published_from(file: WrittenFile, header: Dataset) -> Published:
    """As `read_published`, from what has just been written: nothing is parsed again.

    :param header: `WrittenFile.header` of it.
    :raises Unpublishable: the pixels are not what the header says.
    """
    try:
        layout = file.layout()
    except Exception as error:
        raise Unpublishable(f"the header cannot be written as DICOM JSON ({type(error).__name__})") from None
    return _published(file.data, header, layout, file.transfer_syntax_uid)


def _published(data: bytes, dataset: Dataset, walked: Layout, syntax: UID) -> Published:
    try:
        frames = 0 if walked.pixels is None else max(1, int(dataset.get("NumberOfFrames") or 1))
        layout: PixelLayout = {} if walked.pixels is None else _layout(data, walked, syntax, frames, dataset)
        header = dict(_members(dataset, ""))
        if "00080005" in header:
            header["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8 (PS3.18 section F.2)
        if walked.pixels is not None:
            order = "<" if syntax.is_little_endian else ">"
            group, element = struct.unpack_from(f"{order}HH", data, walked.pixels)
            tag = f"{group:04X}{element:04X}"
            header[tag] = {"vr": _pixel_vr(data, walked, syntax), "BulkDataURI": f"bulkdata/{tag}"}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except Unpublishable:
        raise
    except MalformedDataSet as error:
        raise Unpublishable(str(error)) from None
    except Exception as error:  # any parser error; its text may quote the data
        raise Unpublishable(f"the header cannot be written as DICOM JSON ({type(error).__name__})") from None
    return Published(dataset, text, layout, frames, str(syntax))


def _members(dataset: Dataset, path: str) -> Iterator[tuple[str, DicomElement]]:
    """Elements of a data set as members of its DICOM JSON object, in order of their tags."""
    for tag in sorted(dataset.keys()):
        if int(tag) in PIXEL_TAGS or tag.element == 0:
            continue
        name = f"{int(tag):08X}"
        try:
            element = dataset[tag]
            yield name, _member(element, f"{path}{name}")
        except Unpublishable:
            raise
        except Exception:
            # A value that DICOM JSON cannot hold (a number that is none): the attribute is offered without a value.
            vr = str(getattr(dataset.get_item(tag), "VR", None) or "UN")
            yield name, {"vr": vr[:2]}


def _member(element: DataElement, path: str) -> DicomElement:
    if element.VR == "SQ":
        items = [dict(_members(item, f"{path}/{number}/")) for number, item in enumerate(element.value, start=1)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR in _BINARY and isinstance(element.value, (bytes, bytearray)) and len(element.value) > BULK_FROM:
        return {"vr": str(element.VR), "BulkDataURI": f"bulkdata/{path}"}
    member = cast(DicomElement, element.to_json_dict(None, BULK_FROM))
    json.dumps(member, allow_nan=False)  # refuses here, where one element is lost, not the header
    return member


def _pixel_vr(data: bytes, walked: Layout, syntax: UID) -> str:
    if walked.pixels is None:
        raise Unpublishable("it has no pixels")
    if syntax.is_implicit_VR:
        return "OW"
    return data[walked.pixels + 4 : walked.pixels + 6].decode("ascii")


def _layout(data: bytes, walked: Layout, syntax: UID, frames: int, dataset: Dataset) -> PixelLayout:
    if not syntax.is_encapsulated:
        pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
        bits = int(dataset.BitsAllocated)
        if pixels * bits * frames > walked.pixel_bytes * 8 or (bits != 1 and bits % 8):
            raise Unpublishable("it has fewer pixels than its header says")
        return {"pixels": [walked.pixel_start, walked.pixel_bytes], "bits": bits, "frame_pixels": pixels}
    return {"fragments": _fragments(data, walked, frames)}


def _fragments(data: bytes, walked: Layout, frames: int) -> list[list[list[int]]]:
    """Fragments of each frame (PS3.5 section A.4): by count where it fits, else by the Basic Offset Table."""
    offset_table, *fragments = walked.fragments
    pieces = [[start, end - start] for start, end in fragments]
    if frames == 1:
        return [pieces]
    if len(pieces) == frames:
        return [[piece] for piece in pieces]
    count = (offset_table[1] - offset_table[0]) // 4
    if count != frames:
        raise Unpublishable("the compressed frames cannot be told apart")
    # Offsets count from the item tag of the first fragment, which lies behind the table.
    bounds = [offset_table[1] + offset for offset in struct.unpack_from(f"<{count}I", data, offset_table[0])]
    grouped: list[list[list[int]]] = [[] for _ in range(frames)]
    for piece in pieces:
        frame = max((i for i, bound in enumerate(bounds) if piece[0] - 8 >= bound), default=0)
        grouped[frame].append(piece)
    return grouped


def element_at(dataset: Dataset, path: Sequence[str]) -> DataElement | None:
    """The element that a bulk data path names (``tag`` or ``tag/item/tag``; items count from 1), if there is one."""
    current = dataset
    for index in range(0, len(path) - 1, 2):
        sequence = current.get(int(path[index], 16))
        position = int(path[index + 1])
        if sequence is None or sequence.VR != "SQ" or not 1 <= position <= len(sequence.value):
            return None
        current = sequence.value[position - 1]
    found = current.get(int(path[-1], 16))
    return found if isinstance(found, DataElement) else None
