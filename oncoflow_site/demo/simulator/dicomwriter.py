"""Writes an acquired study as classic MR Image Storage instances (PS3.3 A.4), one file a slice.

The header is what a scanner of a hospital sends: it names the (made-up) patient, physicians, station and institution,
so that de-identification has something to do. UIDs follow from the patient's seed: the same study has the same UIDs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from .fields import FieldSource
from .patient import AcquiredSeries, AcquiredStudy

__all__ = ["study_instance_uid", "write_study"]

_IMPLEMENTATION_UID = UID("2.25.269517012043951862713386440936181532211")
# SeriesDescription, ScanningSequence, SequenceVariant, ScanOptions, MRAcquisitionType, TR, TE, TI, FlipAngle, echo train.
_PROTOCOL: dict[str, dict[str, object]] = {
    "T1": {
        "SeriesDescription": "Sag T1 MPRAGE",
        "ScanningSequence": ["GR", "IR"],
        "SequenceVariant": ["SK", "SP", "MP"],
        "ScanOptions": ["IR", "PFP"],
        "MRAcquisitionType": "3D",
        "RepetitionTime": 2300,
        "EchoTime": 2.98,
        "InversionTime": 900,
        "FlipAngle": 9,
        "EchoTrainLength": 1,
        "SequenceName": "*tfl3d1",
    },
    "T1c": {
        "SeriesDescription": "Sag T1 MPRAGE post Gd",
        "ScanningSequence": ["GR", "IR"],
        "SequenceVariant": ["SK", "SP", "MP"],
        "ScanOptions": ["IR", "PFP"],
        "MRAcquisitionType": "3D",
        "RepetitionTime": 2300,
        "EchoTime": 2.98,
        "InversionTime": 900,
        "FlipAngle": 9,
        "EchoTrainLength": 1,
        "SequenceName": "*tfl3d1",
    },
    "T2": {
        "SeriesDescription": "Ax T2 TSE",
        "ScanningSequence": "SE",
        "SequenceVariant": ["SK", "SP"],
        "ScanOptions": "PFP",
        "MRAcquisitionType": "2D",
        "RepetitionTime": 5200,
        "EchoTime": 98,
        "FlipAngle": 150,
        "EchoTrainLength": 16,
        "SequenceName": "*tse2d1_16",
    },
    "FLAIR": {
        "SeriesDescription": "Ax T2 FLAIR",
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": ["SK", "SP", "MP"],
        "ScanOptions": ["IR", "PFP"],
        "MRAcquisitionType": "2D",
        "RepetitionTime": 9000,
        "EchoTime": 110,
        "InversionTime": 2500,
        "FlipAngle": 150,
        "EchoTrainLength": 17,
        "SequenceName": "*tir2d1_17",
    },
}
_SERIES_ORDER = ("T1", "T2", "FLAIR", "T1c")


def _uid(*parts: object) -> UID:
    """A UID derived from a UUID (PS3.5 B.2) that follows from `parts`."""
    digest = hashlib.sha256("/".join(str(p) for p in ("oncoflow-simulator", *parts)).encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def _key(study: AcquiredStudy) -> tuple[object, ...]:
    return study.seed, study.scenario, study.patient.patient_id, study.visit, study.difficulty, study.when.isoformat()


def study_instance_uid(study: AcquiredStudy) -> str:
    """The StudyInstanceUID that write_study gives to `study`."""
    return _uid("study", *_key(study))


def _da(moment: dt.datetime) -> str:
    return moment.strftime("%Y%m%d")


def _tm(moment: dt.datetime) -> str:
    return moment.strftime("%H%M%S.%f")


def _offset(moment: dt.datetime) -> str:
    return moment.strftime("%z") or "+0000"


def _ds(values: np.ndarray) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{float(v) + 0.0:.10f}"[:16] if abs(v) < 10 else f"{float(v):.6f}"[:16] for v in values]


def _patient_and_study(study: AcquiredStudy) -> Dataset:
    ds = Dataset()
    who, when = study.patient, study.when
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"{who.family}^{who.given}"
    ds.PatientID = who.patient_id
    ds.IssuerOfPatientID = who.issuer
    ds.PatientBirthDate = who.birth_date.strftime("%Y%m%d")
    ds.PatientSex = who.sex
    ds.PatientAge = f"{min((when.date() - who.birth_date).days // 365, 999):03d}Y"
    ds.PatientWeight = "74"
    ds.PatientAddress = "14 Sample Lane, Northbridge"
    ds.StudyInstanceUID = study_instance_uid(study)
    ds.StudyID = f"{study.seed % 10000:04d}{study.visit}"
    ds.StudyDate, ds.StudyTime = _da(when), _tm(when)
    ds.TimezoneOffsetFromUTC = _offset(when)
    ds.AccessionNumber = study.accession_number
    ds.StudyDescription = "MR head with and without contrast"
    ds.ReferringPhysicianName = "Ashworth^Miriam^^Dr"
    ds.PerformingPhysicianName = "Kessler^Jonas^^Dr"
    ds.OperatorsName = "Pryce^Dylan"
    ds.InstitutionName = "Northbridge General Hospital"
    ds.InstitutionAddress = "1 Hospital Road, Northbridge"
    ds.InstitutionalDepartmentName = "Neuroradiology"
    ds.StationName = "NBMR02"
    ds.Manufacturer = "OncoFlow Simulator"
    ds.ManufacturerModelName = "Synthetic 3T"
    ds.DeviceSerialNumber = "40217"
    ds.SoftwareVersions = "1.0"
    ds.MagneticFieldStrength = "3"
    ds.ImagingFrequency = "123.25"
    ds.ImagedNucleus = "1H"
    ds.Modality = "MR"
    ds.BodyPartExamined = "HEAD"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = _uid("frame", *_key(study))
    ds.PositionReferenceIndicator = ""
    ds.SOPClassUID = MRImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    return ds


def _series(study: AcquiredStudy, series: AcquiredSeries, number: int, base: Dataset) -> Dataset:
    ds = Dataset()
    ds.update(base)
    start = study.when + dt.timedelta(minutes=4 + 6 * number)
    ds.SeriesInstanceUID = _uid("series", *_key(study), series.sequence)
    ds.SeriesNumber = str(number)
    ds.SeriesDate, ds.SeriesTime = _da(start), _tm(start)
    ds.AcquisitionDate, ds.AcquisitionTime = _da(start), _tm(start)
    ds.ContentDate, ds.ContentTime = _da(start), _tm(start)
    ds.AcquisitionNumber = "1"
    for keyword, value in _PROTOCOL[series.sequence].items():
        setattr(ds, keyword, value)
    ds.ProtocolName = ds.SeriesDescription
    ds.NumberOfAverages = "1"
    ds.PixelBandwidth = "200"
    ds.TransmitCoilName = "Body"
    ds.ReceiveCoilName = "Head_32"
    ds.InPlanePhaseEncodingDirection = "ROW"
    if series.sequence == "T1c":
        ds.ContrastBolusAgent = "Gadobutrol"
        ds.ContrastBolusRoute = "IV"
        ds.ContrastBolusVolume = "7.5"
        ds.ContrastBolusTotalDose = "7.5"
        ds.ContrastBolusStartTime = _tm(start - dt.timedelta(minutes=5))
        ds.ContrastBolusIngredient = "GADOLINIUM"
    grid = series.grid
    columns, rows, _ = grid.shape
    # DICOM's patient coordinates are LPS: x and y have the other sign than NIfTI's RAS.
    to_lps = np.diag([-1.0, -1.0, 1.0])
    row, column = (to_lps @ grid.affine[:3, axis] / grid.spacing[axis] for axis in (0, 1))
    ds.ImageOrientationPatient = _ds(np.concatenate([row, column]))
    ds.PixelSpacing = [f"{grid.spacing[1]:g}", f"{grid.spacing[0]:g}"]
    ds.SliceThickness = f"{grid.slice_thickness:g}"
    ds.SpacingBetweenSlices = f"{grid.spacing[2]:g}"
    ds.AcquisitionMatrix = [0, rows, columns, 0]
    ds.PercentPhaseFieldOfView = "100"
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    sample = series.pixels[::4, ::4, ::2]
    high = float(np.percentile(sample[sample > 0], 99.0)) if (sample > 0).any() else 1.0
    ds.WindowCenter, ds.WindowWidth = f"{high / 2:.0f}", f"{max(high, 1.0):.0f}"
    private = ds.private_block(0x0019, "ONCOFLOW SIM", create=True)
    private.add_new(0x01, "LO", f"coil elements {FieldSource(study.seed).rng(number).integers(16, 33)}")
    private.add_new(0x02, "DS", "1.25")
    private.add_new(0x03, "PN", f"{study.patient.family}^{study.patient.given}")
    return ds


def write_study(study: AcquiredStudy, folder: Path) -> list[Path]:
    """Write every slice to `folder` (made if need be) and return the paths, series by series in slice order.

    File names hold series and instance numbers only. Explicit VR Little Endian.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = _patient_and_study(study)
    paths: list[Path] = []
    present = [s for s in _SERIES_ORDER if s in study.series]
    for number, sequence in enumerate(present, start=1):
        series = study.series[sequence]
        ds = _series(study, series, number + 1, base)
        grid = series.grid
        normal = grid.affine[:3, 2] / grid.spacing[2]
        for k in range(grid.shape[2]):
            position = grid.affine[:3, 3] + grid.affine[:3, 2] * k
            ds.SOPInstanceUID = _uid("instance", *_key(study), sequence, k)
            ds.InstanceNumber = str(k + 1)
            ds.ImagePositionPatient = _ds(position * [-1.0, -1.0, 1.0])
            ds.SliceLocation = f"{float(normal @ position):.4f}"
            pixels = np.ascontiguousarray(series.pixels[:, :, k].T)
            ds.SmallestImagePixelValue, ds.LargestImagePixelValue = int(pixels.min()), int(pixels.max())
            ds["SmallestImagePixelValue"].VR = ds["LargestImagePixelValue"].VR = "US"
            ds.PixelData = pixels.astype("<u2").tobytes()
            ds["PixelData"].VR = "OW"
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = MRImageStorage
            meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            meta.ImplementationClassUID = _IMPLEMENTATION_UID
            meta.ImplementationVersionName = "ONCOFLOW_SIM_1"
            ds.file_meta = meta
            path = folder / f"S{number + 1:02d}_I{k + 1:04d}.dcm"
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths
