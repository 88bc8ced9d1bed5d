"""What placing an image in the patient and reading its pixels needs of its header, as a record: the file is parsed no more.

Only of images in one frame with native 16 bit pixels, which nearly all of MR is; of any other the file itself is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from imaging.dicom.image_plane import READ_TAGS
from imaging.dicom.transfer_syntaxes import NATIVE_LITTLE
from imaging.dicom.written_file import WrittenFile
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["image_dataset", "image_header"]

_PIXEL_DATA = 0x7FE00010
_KEPT = [
    keyword
    for keyword in READ_TAGS
    if isinstance(keyword, str) and dictionary_VR(keyword) in ("CS", "DS", "IS", "UI", "US")
]
_NUMBERS = {"DS": float, "IS": int, "US": int}


def image_header(file: WrittenFile, header: Dataset) -> JsonDict | None:
    """The record of one image; None where the file itself must be read. :param header: `WrittenFile.header`."""
    if file.transfer_syntax_uid not in NATIVE_LITTLE or file.pixels is None or file.pixels[0] != _PIXEL_DATA:
        return None
    try:
        stored, high = int(header.get("BitsStored") or 16), int(header.get("HighBit") or 0)
        plain = header.get("BitsAllocated") == 16 and 1 <= stored <= 16 and high == stored - 1
        if not plain or "PerFrameFunctionalGroupsSequence" in header or int(header.get("NumberOfFrames") or 1) != 1:
            return None
        values = {keyword: _plain(header[keyword]) for keyword in _KEPT if keyword in header}
        layout = file.layout()
    except Exception:  # a value that is not what its VR says: whoever reads the file will say so
        return None
    pixels: list[JsonValue] = [layout.pixel_start, layout.pixel_bytes]
    return {"transfer_syntax": str(file.transfer_syntax_uid), "pixels": pixels, "values": values}


def _plain(element: DataElement) -> JsonValue:
    kind = _NUMBERS.get(str(element.VR), str)
    if element.is_empty:
        return None
    if isinstance(element.value, MultiValue):
        return [kind(value) for value in element.value]
    return kind(element.value)


def image_dataset(record: Mapping[str, Any], data: bytes) -> Dataset:
    """The data set that `READ_TAGS` of the file would have given. :param data: the whole file.

    :raises ValueError: the file is shorter than its record says.
    """
    start, length = record["pixels"]
    if start + length > len(data):
        raise ValueError("the file is shorter than its record")
    dataset = Dataset()
    for keyword, value in record["values"].items():
        tag, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
        dataset.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))  # type: ignore[arg-type]
    dataset.add(DataElement(_PIXEL_DATA, "OW", data[start : start + length], validation_mode=config.IGNORE))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(record["transfer_syntax"])
    return dataset
