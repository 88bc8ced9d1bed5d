"""What a door must survive: files made to take memory or time, or to get past the checks that the ordinary tests make."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tracemalloc
import zipfile

import nibabel as nib
import numpy as np
import pytest

from imaging.geometry import GeometryError, read_nifti
from imaging.uploads.contents import contents
from imaging.uploads.sources import MemorySource
from oncoflow_site.foundation.errors import UserVisibleError


def peak_mb(act) -> float:
    """Most memory that ``act`` held at once, MB."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def zipped(body: bytes, method: int) -> bytes:
    """An archive of one member that says of ``body`` to be packed by ``method``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("1.dcm", body)
    data = bytearray(out.getvalue())
    entry = data.rfind(b"PK\x01\x02")
    for place in (8, entry + 10):
        struct.pack_into("<H", data, place, method)
    for place in (22, entry + 24):
        struct.pack_into("<I", data, place, 0xFFFFFFF0)
    return bytes(data)


def test_a_zip_of_a_method_that_unpacks_without_limit_is_refused_unopened():
    """zipfile unpacks 4 KiB of bzip2 at once, whatever was asked for: 2 KiB of them are gigabytes."""
    packer = bz2.BZ2Compressor(9)
    bomb = b"".join([*(packer.compress(bytes(1 << 22)) for _ in range(16)), packer.flush()])

    def read() -> None:
        with pytest.raises(UserVisibleError, match="packed in a way"):
            list(contents(MemorySource("study.zip", zipped(bomb, zipfile.ZIP_BZIP2))))

    assert peak_mb(read) < 8


def test_a_member_is_unpacked_no_further_than_its_archive_may():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("1.dcm", "w") as member:
        member.write(bytes(128) + b"DICM")
        for _ in range(6):
            member.write(bytes(16 << 20))

    def read() -> None:
        with pytest.raises(UserVisibleError) as refused:
            list(contents(MemorySource("study.zip", out.getvalue())))
        assert refused.value.code == "zip-bomb"

    assert peak_mb(read) < 160  # 64 MiB and a buffer that grows


@pytest.mark.parametrize("shape", [(1000, 800, 300), (30000, 30000, 30000), (0, 5, 5)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_header_that_lies_takes_no_memory(shape, packed):
    """nibabel makes room for what the header says before it reads."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    data = header.binaryblock + bytes(104)

    def read() -> None:
        with pytest.raises(GeometryError):
            read_nifti(gzip.compress(data) if packed else data)

    assert peak_mb(read) < 8
