"""The files that `bench_deidscore` is scored on: planted persons, numbers, dates and UIDs beside what research needs, and the
action that each attribute requires."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from imaging.dicom.elements import ElementWriter
from tests.factories.dicom_files import as_file, dataset

__all__ = ["Case", "Person", "build", "person_of"]

FAMILIES = "Bravo Quastenflosser White Sharp Oyelaran Lindqvist Sola Okonkwo-Meyer Grant Zwirbelhuber".split()  # noqa: SIM905
GIVEN = "Vida Hildegund Max Altea Tobias Iris Trio Wilhelmine".split()  # noqa: SIM905
PHYSICIANS = ("Wachtel^Ottokar", "Bell^Skyra", "Pioneer^Marta", "Nakamura^Ren", "Eisvogel^Bo")
CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"

TERMS = {
    "Laterality": "L", "ImageLaterality": "L", "PatientOrientation": "L\\P", "LossyImageCompression": "01",
    "LossyImageCompressionMethod": "ISO_10918_1", "RotationDirection": "CW", "ScanOptions": "FC\\PFP",
    "SequenceVariant": "SK\\MTC\\OSP", "ImageType": "ORIGINAL\\PRIMARY\\M_SE\\M\\SE", "PatientPosition": "HFS",
    "BodyPartExamined": "BRAIN",
    "VOILUTFunction": "LINEAR_EXACT", "PresentationLUTShape": "IDENTITY", "InPlanePhaseEncodingDirection": "ROW", "AngioFlag": "N",
    "MRAcquisitionType": "3D", "PhotometricInterpretation": "MONOCHROME2", "ContrastBolusIngredient": "GADOLINIUM",
    "Modality": "MR",
    "PatientSex": "F", "ExposureModulationType": "NONE", "FilterMaterial": "ALUMINUM", "ConversionType": "WSD",
    "RescaleType": "US", "QualityControlImage": "NO",
}  # fmt: skip
FRAME_TERMS = {
    "AcquisitionContrast": "FLUID_ATTENUATED", "ComplexImageComponent": "MAGNITUDE", "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME", "VolumeBasedCalculationTechnique": "MAX_IP", "EchoPulseSequence": "SPIN",
    "Spoiling": "RF_AND_GRADIENT",
    "SteadyStatePulseSequence": "FREE_PRECESSION", "MagnetizationTransfer": "OFF_RESONANCE",
    "SpectrallySelectedSuppression": "FAT_AND_WATER",
    "RectilinearPhaseEncodeReordering": "REVERSE_CENTRIC", "GeometryOfKSpaceTraversal": "RADIAL", "CoverageOfKSpace": "ELLIPSOIDAL",
    "ParallelAcquisitionTechnique": "SENSE", "PartialFourierDirection": "SLICE_SELECT", "KSpaceFiltering": "LRNTZ_GSS_TRNSFM",
    "DiffusionDirectionality": "BMATRIX", "ASLContext": "LABEL", "RespiratorySignalSource": "CO2_SENSOR",
    "OperatingMode": "IEC_NORMAL",
    "CardiacSignalSource": "VCG", "ReceiveCoilType": "MULTICOIL", "ResonantNucleus": "31P", "ContentQualification": "RESEARCH",
    "FrameLaterality": "L", "ContrastBolusAgentPhase": "PORTAL_VENOUS", "Tagging": "GRID",
    "FlowCompensationDirection": "SLICE_FREQ_PHASE",
}  # fmt: skip
NUMBERS = {
    "RescaleSlope": "5.000000e-001", "RescaleIntercept": "-8388608", "ImagingFrequency": "128175953", "EchoTime": "2.980000e+000",
    "RepetitionTime": "+2300.", "InversionTime": "900.00000000000000000", "FlipAngle": " 9", "SliceThickness": "1.0E+00",
    "MagneticFieldStrength": "2.8936200141906738", "PixelBandwidth": ".24E3", "PixelSpacing": "9.765625e-001\\9.765625e-001",
    "ImagePositionPatient": "-1.100000e+002\\-8.881784197001252e-016\\12.5",
    "ImageOrientationPatient": "1\\-1e-016\\0\\1e-016\\1\\0",
    "InstanceNumber": "1000007", "SeriesNumber": "00007", "AcquisitionNumber": "1", "EchoTrainLength": "208",
    "NumberOfAverages": "1.0",
    "WindowCenter": "4.0e+001\\400", "WindowWidth": "80\\2000", "SAR": "0.02135", "SliceLocation": "-1.2E-015",
    "PercentSampling": "100",
    "PatientWeight": "71.5", "PatientSize": "1.68", "KVP": "120", "TriggerTime": "0",
}  # fmt: skip
SENTENCES = (
    ("{} glioblastoma left frontal", "glioblastoma left frontal"),
    ("t1_mprage_sag_p2_iso {}", "t1_mprage_sag_p2_iso"),
    ("brain metastasis after resection, {}", "brain metastasis after resection"),
    ("FLAIR tra motion artifact ({})", "FLAIR tra motion artifact"),
    ("perfusion mapping per {}", "perfusion mapping"),
    ("ax t2 tse fs, ref Dr. {}", "ax t2 tse fs"),
    ("ep2d_diff b1000 tumor follow-up {}", "ep2d_diff b1000 tumor follow-up"),
)
SCANNERS = (
    ("SIEMENS", "Prisma_fit"),
    ("GE MEDICAL SYSTEMS", "SIGNA Premier"),
    ("CANON_MEC", "Vantage Galan 3T"),
    ("Philips", "Ingenia"),
)
VERSIONS = ("syngo MR E11", "syngo MR XA30", "MR Software release:DV26.0_R03_1831.b", "5.7.1", "V2.30*R006*SP0002")


@dataclass(frozen=True)
class Person:
    """One patient: what identifies, and the true dates."""

    family: str
    given: str
    number: str
    birth: str
    phone: str
    accession: str

    @property
    def secrets(self) -> list[str]:
        return [*self.family.replace("-", " ").split(), self.given, self.number, self.birth, self.phone, self.accession]


@dataclass
class Case:
    """A file and its required actions: (action, path of the attribute, what was there, what of it must not or must stay)."""

    person: Person
    data: bytes = field(repr=False)
    required: list[tuple[str, tuple[Any, ...], Any, Any]] = field(default_factory=list)


def person_of(rng: random.Random) -> Person:
    return Person(
        rng.choice(FAMILIES),
        rng.choice(GIVEN),
        rng.choice(["B{}", "MRN-00{}", "{}", "P{}X"]).format(rng.randint(4000, 9_999_999)),
        f"{rng.randint(1930, 1999)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}",
        f"0{rng.randint(30, 99)}-{rng.randint(1000000, 9999999)}",
        f"ACC{rng.randint(10**6, 10**7)}",
    )


def build(rng: random.Random, person: Person, index: int, study: int) -> Case:
    """One file: a classic MR, a CT or an enhanced MR, explicit or implicit."""
    kind = ("mr", "mr", "enhanced", "ct")[index % 4]
    day = f"2026{1 + study * 3:02d}{rng.randint(1, 28):02d}"
    uid = f"1.2.276.0.{zlib.crc32(person.number.encode()) % 10**6}.{study + 1}"
    one = dataset(study=uid, series="1", number=index + 1)
    one.SOPClassUID = {"mr": one.SOPClassUID, "ct": CT, "enhanced": ENHANCED}[kind]
    case = Case(person, b"")
    need = case.required.append
    full = f"{person.given} {person.family}"
    one.PatientName, one.PatientID = f"{person.family}^{person.given}", person.number
    for keyword in ("PatientName", "PatientID"):
        need(("replace", (keyword,), str(one[keyword].value), person.secrets))
    removed: dict[str, str] = {
        "PatientBirthDate": person.birth, "OtherPatientNames": f"{person.given}^Maria",
        "PatientAddress": f"Weg 3, {person.family}hausen",
        "PatientTelephoneNumbers": person.phone, "AccessionNumber": person.accession, "InstitutionName": "Sankt Gertrud Klinik",
        "InstitutionAddress": "Allee 7, 12345 Ort", "ReferringPhysicianName": rng.choice(PHYSICIANS),
        "OperatorsName": rng.choice(PHYSICIANS),
        "PerformingPhysicianName": rng.choice(PHYSICIANS), "StationName": "GERTRUDMR1", "DeviceSerialNumber": "166123",
        "AdmissionID": f"ADM{rng.randint(10**5, 10**6)}", "RequestingPhysician": rng.choice(PHYSICIANS),
        "StudyID": f"S{rng.randint(1000, 9999)}",
        "CurrentPatientLocation": "Station 4 Zimmer 12", "ResponsiblePerson": f"{person.family}^Karl",
        "MedicalRecordLocator": person.number,
        "InstitutionalDepartmentName": "Radiologie Gertrud", "PerformedStationName": "GERTRUDMR1", "IssuerOfPatientID": "GERTRUD",
        "PerformedProcedureStepID": "PPS77123", "NameOfPhysiciansReadingStudy": rng.choice(PHYSICIANS),
        "CountryOfResidence": "Freiland",
        "RegionOfResidence": "Oberquastenau", "PatientReligiousPreference": "pastafari", "MilitaryRank": "Oberst",
        "BranchOfService": "Wacht",
        "InsurancePlanIdentification": "KV4711008", "ConsultingPhysicianName": rng.choice(PHYSICIANS),
        "PatientMotherBirthName": "Uhu^Ina",
    }  # fmt: skip
    for keyword, value in removed.items():
        setattr(one, keyword, value)
        words = [word for word in value.replace("^", " ").replace(",", " ").split() if len(word) > 2]
        need(("remove", (keyword,), value, words))
    identities = [
        full,
        person.number,
        person.birth,
        person.phone,
        f"{person.family}",
        f"MRN {person.number}",
        person.accession,
    ]
    for keyword in (
        "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "ReasonForStudy", "PatientComments",
        "RequestedProcedureDescription", "AdditionalPatientHistory", "PerformedProcedureStepDescription", "DerivationDescription",
    ):  # fmt: skip
        text, left = rng.choice(SENTENCES)
        identity = full if "per {}" in text or "Dr." in text else rng.choice(identities)
        value = text.format(identity)
        if len(value) > 64 and keyword not in (
            "ImageComments",
            "PatientComments",
            "AdditionalPatientHistory",
            "DerivationDescription",
        ):
            value = text.format(person.number)
        setattr(one, keyword, value)
        need(("clean", (keyword,), value, (left.split(), person.secrets)))
    version = rng.choice(VERSIONS)
    extra = rng.choice(
        ["4155551234", f"SN{rng.randint(10**5, 10**6)}", "1977-03-14", f"MRN{rng.randint(10**6, 10**7)}", person.number]
    )
    one.SoftwareVersions = f"{version} {extra}"
    need(("clean", ("SoftwareVersions",), one.SoftwareVersions, (version.split(), [extra])))
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PerformedProcedureStepStartDate"):
        setattr(one, keyword, day)
        need(("shift", (keyword,), day, None))
    one.AcquisitionDateTime = f"{day}093000.5"
    need(("shift", ("AcquisitionDateTime",), one.AcquisitionDateTime, None))
    one.StudyTime, one.AcquisitionTime = "093000.123", "0931"
    one.PatientAge = "064Y"
    one.Manufacturer, one.ManufacturerModelName = rng.choice(SCANNERS)
    for keyword in (
        "StudyTime",
        "AcquisitionTime",
        "PatientAge",
        "Manufacturer",
        "ManufacturerModelName",
        "Rows",
        "Columns",
        "BitsStored",
    ):
        need(("keep", (keyword,), one[keyword].value, None))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        need(("map", (keyword,), str(one[keyword].value), None))
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    one.ReferencedImageSequence = [reference]
    need(("map", ("ReferencedImageSequence", 0, "ReferencedSOPInstanceUID"), str(one.SOPInstanceUID), None))
    need(("keep", ("ReferencedImageSequence", 0, "ReferencedSOPClassUID"), str(one.SOPClassUID), None))
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "24587-8", "LN", "MR Brain WO and W contrast IV"
    one.ProcedureCodeSequence = [code]
    for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"):
        need(("keep", ("ProcedureCodeSequence", 0, keyword), str(code[keyword].value), None))
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledPerformingPhysicianName = (
        f"RP{person.number}",
        rng.choice(PHYSICIANS),
    )
    one.RequestAttributesSequence = [request]
    need(
        (
            "remove",
            ("RequestAttributesSequence", 0, "RequestedProcedureID"),
            request.RequestedProcedureID,
            [person.number],
        )
    )
    need(("remove", ("RequestAttributesSequence", 0, "ScheduledPerformingPhysicianName"),
          str(request.ScheduledPerformingPhysicianName), str(request.ScheduledPerformingPhysicianName).split("^")))  # fmt: skip
    block = one.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", f"x {person.family} {person.number}".encode())
    need(("remove", (Tag(0x00291010),), full, person.secrets))
    if kind == "enhanced":
        timing = Dataset()
        for keyword, term in FRAME_TERMS.items():
            setattr(timing, keyword, term)
            need(("keep", ("SharedFunctionalGroupsSequence", 0, "MRModifierSequence", 0, keyword), term, None))
        shared = Dataset()
        shared.MRModifierSequence = [timing]
        one.SharedFunctionalGroupsSequence = [shared]
    for keyword, term in TERMS.items():
        setattr(one, keyword, term.split("\\") if "\\" in term else term)
        need(("keep", (keyword,), term, None))
    if kind == "ct":
        one.Modality = "CT"
        case.required = [one_ for one_ in case.required if one_[1] != ("Modality",)]
    # Numbers as they were written, which pydicom would write its own way.
    numbers = dict(NUMBERS)
    for keyword, text in numbers.items():
        need(("keep", (keyword,), text, None))
    case.data = _with_numbers(one, numbers, implicit=index % 5 == 3)
    return case


def _with_numbers(one: Dataset, numbers: dict[str, str], *, implicit: bool) -> bytes:
    """The file with these stored decimal and integer strings, byte for byte."""
    for keyword in numbers:
        if keyword in one:
            del one[keyword]
    data = as_file(one, implicit=implicit)
    parsed = dcmread(BytesIO(data))
    writer = ElementWriter(implicit=implicit, little=True)
    head_end = data.index(b"DICM") + 4 + 12 + parsed.file_meta.FileMetaInformationGroupLength
    parts = {int(element.tag): _raw(parsed, element.tag, writer) for element in parsed}
    for keyword, text in numbers.items():
        tag = int(Tag(keyword))
        parts[tag] = writer.element(tag, "IS" if keyword in _INTEGERS else "DS", text.encode())
    return data[:head_end] + b"".join(parts[tag] for tag in sorted(parts))


_INTEGERS = frozenset({"InstanceNumber", "SeriesNumber", "AcquisitionNumber", "EchoTrainLength"})


def _raw(parsed: Dataset, tag: Any, writer: ElementWriter) -> bytes:
    single = Dataset()
    single.add(parsed[tag])
    buffer = BytesIO()
    dcmwrite(buffer, single, implicit_vr=writer.implicit, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()
