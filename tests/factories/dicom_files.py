"""Small DICOM files for the tests of the imaging room: honest MR headers, tiny pixels, everything adjustable."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
SEQUENCES: dict[str, dict[str, Any]] = {
    "T1": {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2000, "EchoTime": 2.5, "InversionTime": 900, "FlipAngle": 9,
           "MRAcquisitionType": "3D", "SeriesDescription": "t1 mprage sag"},
    "T1c": {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2000, "EchoTime": 2.5, "InversionTime": 900, "FlipAngle": 9,
            "MRAcquisitionType": "3D", "SeriesDescription": "t1 mprage post", "ContrastBolusAgent": "Gadobutrol"},
    "T2": {"ScanningSequence": "SE", "RepetitionTime": 5000, "EchoTime": 95, "FlipAngle": 150, "MRAcquisitionType": "2D",
           "SeriesDescription": "t2 tse ax"},
    "FLAIR": {"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "EchoTime": 110, "InversionTime": 2500,
              "FlipAngle": 150, "MRAcquisitionType": "2D", "SeriesDescription": "t2 flair ax"},
}  # fmt: skip


def dataset(
    *, study: str = "1.2.3.1", series: str = "1", number: int = 1, sequence: str = "T1", size: int = 16, **changes: Any
) -> Dataset:
    """One MR slice; keyword arguments replace attributes, None removes one."""
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 100"
    one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    one.SOPClassUID = MR_CLASS
    one.StudyInstanceUID = study
    one.SeriesInstanceUID = f"{study}.{series}"
    one.SOPInstanceUID = f"{study}.{series}.{number}"
    one.FrameOfReferenceUID = f"{study}.99"
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = "20260311"
    one.StudyTime = one.SeriesTime = "093000.000000"
    one.TimezoneOffsetFromUTC = "+0100"
    one.AccessionNumber = "ACC-77001"
    one.Modality = "MR"
    one.Manufacturer = "SIEMENS"
    one.InstitutionName = "Sankt Gertrud Klinik"
    one.ReferringPhysicianName = "Wachtel^Ottokar"
    one.PatientName = "Quastenflosser^Hildegund"
    one.PatientID = "MRN-4711-X"
    one.PatientBirthDate = "19610423"
    one.PatientSex = "F"
    one.PatientAge = "064Y"
    one.SequenceVariant = "SK"
    one.ScanOptions = "FS"
    one.MagneticFieldStrength = 3
    one.SeriesNumber = int(series)
    one.InstanceNumber = number
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.ImagePositionPatient = [-8.0, -8.0, 2.0 * number]
    one.PixelSpacing = [1.0, 1.0]
    one.SliceThickness = 2.0
    one.SamplesPerPixel = 1
    one.PhotometricInterpretation = "MONOCHROME2"
    one.Rows = one.Columns = size
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    pixels = np.random.default_rng(number).integers(0, 4000, (size, size), dtype=np.uint16)
    one.PixelData = pixels.tobytes()
    one["PixelData"].VR = "OW"
    for keyword, value in {**SEQUENCES[sequence], **changes}.items():
        if value is None:
            if keyword in one:
                delattr(one, keyword)
        else:
            setattr(one, keyword, value)
    return one


def as_file(one: Dataset, *, implicit: bool = False) -> bytes:
    """A DICOM file (PS3.10) of the data set."""
    one.file_meta = FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, one, enforce_file_format=True)
    return buffer.getvalue()


def study_files(
    *,
    study: str = "1.2.3.1",
    slices: int = 4,
    sequences: tuple[str, ...] = ("T1", "T1c", "T2", "FLAIR"),
    **changes: Any,
) -> list[bytes]:
    """All files of a study with one series a sequence."""
    return [
        as_file(dataset(study=study, series=str(index), number=number, sequence=sequence, **changes))
        for index, sequence in enumerate(sequences, start=1)
        for number in range(1, slices + 1)
    ]
