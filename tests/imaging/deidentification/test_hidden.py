"""Places where text survived a first look: unused bits of pixels, code streams, UIDs below the standard's own root."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments

from imaging.archive.filing_header import BadInstance, read_header
from imaging.deidentification.engine import DeidentificationRefused, PatientProfile, deidentify
from imaging.identifiers import map_uid
from tests.factories.dicom_files import as_file, dataset

PROFILE = PatientProfile("P-1", -100, lambda uid: "2.25.7")
JPEG, JPEG_LOSSLESS_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
NAME = b"Quastenflosser"


def compressed(fragments: list[bytes], syntax: str, *, size: int = 64) -> Dataset:
    one = dataset(size=size, BitsAllocated=8, BitsStored=8, HighBit=7)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = syntax
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in fragments)
    one.PixelData = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + items
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    return one


def file(one: Dataset) -> bytes:
    out = BytesIO()
    dcmwrite(out, one, enforce_file_format=True)
    return out.getvalue()


def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (64, 64), dtype=np.uint8)


def jpeg(**options) -> bytes:
    out = BytesIO()
    Image.fromarray(picture()).save(out, "JPEG", **options)
    data = out.getvalue()
    return data + b"\0" * (len(data) % 2)


def jpeg_2000() -> bytes:
    data = bytes(encode_array(picture()))
    return data + b"\0" * (len(data) % 2)


def comment(text: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text


def pixels_after(one: Dataset) -> tuple[bytes, np.ndarray]:
    """Bytes of the fragments, and the decoded picture, after de-identification."""
    made = dcmread(BytesIO(deidentify(file(one), PROFILE).data))
    return b"".join(generate_fragments(made.PixelData)), made.pixel_array


def test_an_overlay_in_the_unused_bits_goes_and_the_pixels_stay():
    """PS3.5 section 8.1.1: overlays drawn into bits 12 to 15, as older scanners did with name and date."""
    one = dataset()
    cells = np.frombuffer(one.PixelData, np.uint16).reshape(16, 16)
    drawn = cells | np.where(np.eye(16, dtype=bool), 0xF000, 0).astype(np.uint16)
    one.PixelData = drawn.tobytes()
    made = dcmread(BytesIO(deidentify(as_file(one), PROFILE).data))
    assert np.array_equal(np.frombuffer(made.PixelData, np.uint16).reshape(16, 16), cells)


def test_signed_pixels_keep_their_sign():
    values = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    one = dataset(PixelRepresentation=1, PixelData=values.tobytes())
    assert dcmread(BytesIO(deidentify(as_file(one), PROFILE).data)).PixelData == values.tobytes()
    drawn = dataset(PixelRepresentation=1, PixelData=(values & 0x0FFF).tobytes())
    assert dcmread(BytesIO(deidentify(as_file(drawn), PROFILE).data)).PixelData == values.tobytes()


def test_an_overlay_in_compressed_pixels_is_refused():
    one = compressed([jpeg_2000()], JPEG_LOSSLESS_2000)
    one.add_new(0x60000010, "US", 16)
    with pytest.raises(DeidentificationRefused, match="overlay"):
        deidentify(file(one), PROFILE)


@pytest.mark.parametrize("cut", [False, True])
def test_a_comment_anywhere_in_a_jpeg_goes(cut):
    """Behind the first scan of a progressive one, and in a frame cut into fragments."""
    data = jpeg(progressive=True)
    scan = data.index(b"\xff\xda")
    later = data.index(b"\xff\xc4", scan)  # the tables of the next scan
    data = data[:2] + comment(NAME) + data[2:later] + comment(NAME + b"!!") + data[later:]
    fragments = [data[:4], data[4:20], data[20:]] if cut else [data]
    assert data.count(NAME) == 2
    found, decoded = pixels_after(compressed(fragments, JPEG))
    assert NAME not in found
    assert np.array_equal(decoded, dcmread(BytesIO(file(compressed([jpeg(progressive=True)], JPEG)))).pixel_array)


def test_a_comment_in_a_tile_part_of_jpeg_2000_goes():
    data = jpeg_2000()
    tile, start = data.index(b"\xff\x90"), data.index(b"\xff\x93")
    text = b"\xff\x64" + struct.pack(">HH", len(NAME) + 4, 1) + NAME
    size = struct.unpack(">I", data[tile + 6 : tile + 10])[0] + len(text)
    data = data[: tile + 6] + struct.pack(">I", size) + data[tile + 10 : start] + text + data[start:]
    found, decoded = pixels_after(compressed([data], JPEG_LOSSLESS_2000))
    assert NAME not in found
    assert np.array_equal(decoded, picture())


@pytest.mark.parametrize("fragment", [NAME, b"\0\0\0\x0cjP  \r\n\x87\n" + NAME])
@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS_2000])
def test_what_is_no_code_stream_is_refused(fragment, syntax):
    with pytest.raises(DeidentificationRefused):
        deidentify(file(compressed([fragment], syntax)), PROFILE)


def claiming(data: bytes, place: int, form: str) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, place, 65000, 65000)
    return bytes(changed)


@pytest.mark.parametrize(
    ("fragments", "syntax"),
    [
        ([claiming(jpeg(), jpeg().index(b"\xff\xc0") + 5, ">HH")], JPEG),
        ([claiming(jpeg_2000(), 8, ">II")], JPEG_LOSSLESS_2000),
        ([claiming(jpeg_2000(), 8, ">II")[:6], claiming(jpeg_2000(), 8, ">II")[6:]], JPEG_LOSSLESS_2000),
        ([jpeg(), claiming(jpeg(), jpeg().index(b"\xff\xc0") + 5, ">HH")], JPEG),
        ([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 5000], "1.2.840.10008.1.2.5"),
    ],
)
def test_a_frame_that_claims_another_size_never_reaches_a_decoder(fragments, syntax):
    """A JPEG of 1 KiB that says 65,000 x 65,000 takes gigabytes and minutes to be found out."""
    with pytest.raises(BadInstance, match="another size"):
        read_header(file(compressed(fragments, syntax)))


def test_honest_frames_pass():
    for fragments, syntax in (
        ([jpeg()], JPEG),
        ([jpeg()[:50], jpeg()[50:]], JPEG),
        ([jpeg_2000()], JPEG_LOSSLESS_2000),
    ):
        assert read_header(file(compressed(fragments, syntax))).modality == "MR"
    one = compressed([jpeg()], JPEG)
    one.PixelData = encapsulate([jpeg(), jpeg()])
    one.NumberOfFrames = 2
    assert read_header(file(one)).modality == "MR"


@pytest.mark.django_db
def test_a_uid_that_somebody_made_below_the_standards_root_is_replaced():
    made = "1.2.840.10008.19610423.4711"
    assert map_uid(made).startswith("2.25.")
    assert map_uid("1.2.840.10008.1.4.1.1") == "1.2.840.10008.1.4.1.1"  # a well-known frame of reference
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = made, made
    one = dataset(ReferencedImageSequence=[item], StudyInstanceUID=made)
    assert made.encode() not in deidentify(as_file(one), PatientProfile("P-1", -100, map_uid)).data
