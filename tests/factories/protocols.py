"""Series as four vendors' scanners write their headers, and what each truly shows. Numbers and names are of common protocols.

``unknown`` and ``other`` are never wrong where a person then has to say it; a name of the four that is not the truth is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

M = ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]
GE = ["ORIGINAL", "PRIMARY", "OTHER"]
SP, MP, SS = ["SK", "SP"], ["SK", "SP", "MP"], ["SK", "SS"]
# vendor, truth, description, scanning sequence, variant, TR, TE, TI, flip, image type, other attributes
Row = tuple[str, str, str, Any, Any, float, float, float | None, float | None, list[str], dict[str, Any]]
GD, NO = {"ContrastBolusAgent": "Gadovist"}, {"ContrastBolusAgent": "NONE"}
MANUFACTURERS = {"GE": "GE MEDICAL SYSTEMS", "PHILIPS": "Philips Medical Systems"}
D2, D3 = {"MRAcquisitionType": "2D"}, {"MRAcquisitionType": "3D"}


def _philips(kind: str, way: str = "SE") -> list[str]:
    return ["ORIGINAL", "PRIMARY", f"M_{way}", kind, way]


SERIES: tuple[Row, ...] = (
    # Siemens
    ("SIEMENS", "T1", "t1_mprage_sag_p2_iso", ["GR", "IR"], MP, 2300, 2.98, 900, 9, M, D3),
    ("SIEMENS", "T1", "t1_mpr_sag_iso_nativ", ["GR", "IR"], MP, 1900, 2.52, 900, 9, M, D3),
    ("SIEMENS", "T1", "t1_se_tra", "SE", SP, 500, 8.4, None, 90, M, D2),
    ("SIEMENS", "T1", "t1_fl2d_tra", "GR", SP, 250, 2.5, None, 70, M, D2),
    ("SIEMENS", "T1", "t1_tirm_tra_dark-fluid", ["SE", "IR"], SP, 2000, 9, 860, 150, M, D2),
    ("SIEMENS", "T1", "t1_space_sag_iso", "SE", SP, 700, 11, None, 120, M, D3),
    ("SIEMENS", "T1", "t1_vibe_tra_nativ", "GR", SP, 5.2, 2.4, None, 12, M, D3),
    ("SIEMENS", "T1c", "t1_mprage_sag_p2_iso_KM", ["GR", "IR"], MP, 2300, 2.98, 900, 9, M, {**D3, **GD}),
    ("SIEMENS", "T1c", "t1_se_tra_KM", "SE", SP, 500, 8.4, None, 90, M, D2),
    ("SIEMENS", "T1c", "t1_space_sag_post", "SE", SP, 700, 11, None, 120, M, {**D3, **GD}),
    ("SIEMENS", "T1c", "t1_vibe_fs_tra_post_Gd", "GR", SP, 5.2, 2.4, None, 12, M, {**D3, **GD}),
    ("SIEMENS", "T2", "t2_tse_tra_320", "SE", SP, 5000, 93, None, 150, M, D2),
    ("SIEMENS", "T2", "t2_space_sag_p2_iso", "SE", SP, 3200, 408, None, 120, M, D3),
    ("SIEMENS", "T2", "t2_blade_tra", "SE", SP, 4500, 112, None, 140, M, D2),
    ("SIEMENS", "FLAIR", "t2_tirm_tra_dark-fluid", ["SE", "IR"], SP, 9000, 86, 2500, 150, M, D2),
    ("SIEMENS", "FLAIR", "t2_space_dark-fluid_sag_p2_iso", ["SE", "IR"], MP, 5000, 388, 1800, 120, M, D3),
    ("SIEMENS", "FLAIR", "t2_flair_fs_tra_KM", ["SE", "IR"], SP, 8000, 119, 2370, 150, M, {**D2, **GD}),
    ("SIEMENS", "other", "localizer", "GR", SP, 8.6, 4, None, 20, M, D2),
    ("SIEMENS", "other", "AAHead_Scout_32ch", "GR", SP, 3.2, 1.4, None, 10, M, D3),
    ("SIEMENS", "other", "ep2d_diff_3scan_trace_p2", "EP", SP, 5600, 90, None, 90, [*M[:2], "DIFFUSION", "NONE"], D2),
    ("SIEMENS", "other", "ep2d_diff_3scan_trace_p2_ADC", "EP", SP, 5600, 90, None, 90, ["DERIVED", "PRIMARY", "ADC", "ND"], D2),
    ("SIEMENS", "other", "resolve_3scan_trace_tra_TRACEW", ["EP"], SP, 4500, 64, None, 180, ["DERIVED", "PRIMARY", "TRACEW"], D2),
    ("SIEMENS", "other", "SWI_Images", "GR", SP, 28, 20, None, 15, ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"], D3),
    ("SIEMENS", "other", "Pha_Images", "GR", SP, 28, 20, None, 15, ["ORIGINAL", "PRIMARY", "P", "NORM"], D3),
    ("SIEMENS", "other", "mIP_Images(SW)", "GR", SP, 28, 20, None, 15, ["DERIVED", "PRIMARY", "MNIP", "SWI"], D3),
    ("SIEMENS", "other", "t2_fl2d_tra_hemo", "GR", SP, 620, 19.9, None, 20, M, D2),
    ("SIEMENS", "other", "ep2d_perf", "EP", SP, 1500, 30, None, 90, M, {**D2, **GD}),
    ("SIEMENS", "other", "ep2d_perf_RELCBV", "EP", SP, 1500, 30, None, 90, ["DERIVED", "PRIMARY", "PERFUSION", "RELCBV"], GD),
    ("SIEMENS", "other", "t1_twist_dynamic", "GR", SP, 4.9, 1.9, None, 12, M, {**D3, **GD}),
    ("SIEMENS", "other", "TOF_3D_multi-slab", "GR", SP, 21, 3.4, None, 18, M, {**D3, "AngioFlag": "Y"}),
    ("SIEMENS", "other", "intracranial", "GR", SP, 21, 3.4, None, 18, M, {**D3, "AngioFlag": "Y"}),
    ("SIEMENS", "other", "TOF_3D_MIP_TRA", "GR", SP, 21, 3.4, None, 18, ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"], D3),
    ("SIEMENS", "other", "t2_ci3d_tra_iso (CISS)", "GR", SS, 5.6, 2.5, None, 50, M, D3),
    ("SIEMENS", "other", "t2_stir_cor", ["SE", "IR"], SP, 4000, 38, 160, 150, M, D2),
    ("SIEMENS", "other", "t1_stir_cor", ["SE", "IR"], SP, 3500, 26, 150, 150, M, D2),
    ("SIEMENS", "other", "gre_field_mapping", "GR", SP, 400, 4.9, None, 60, M, D2),
    ("SIEMENS", "other", "t2_spc_dir_sag", ["SE", "IR"], MP, 7500, 318, 3000, 120, M, D3),
    ("SIEMENS", "other", "mp2rage_INV2", ["GR", "IR"], MP, 5000, 2.98, 2500, 5, M, D3),
    ("SIEMENS", "other", "t1_se_sag_SUB", "SE", SP, 500, 8.4, None, 90, ["DERIVED", "PRIMARY", "M", "SUB"], GD),
    ("SIEMENS", "other", "t2_tse_sag_spine", "SE", SP, 3500, 105, None, 150, M, {**D2, "BodyPartExamined": "CSPINE"}),
    ("SIEMENS", "other", "pd+t2_tse_tra", "SE", SP, 2800, 11, None, 150, M, D2),
    # GE
    ("GE", "T1", "Sag T1 BRAVO", "GR", ["SS", "SP", "SK"], 8.2, 3.2, 450, 12, GE, D3),
    ("GE", "T1", "Ax FSPGR 3D", "GR", ["SS", "SP", "SK"], 6.9, 2.8, 400, 11, GE, {**D3, **NO}),
    ("GE", "T1", "Ax T1 FLAIR", ["SE", "IR"], "SK", 2500, 24, 950, 111, GE, D2),
    ("GE", "T1", "Sag T1 CUBE", "SE", "SK", 600, 14, None, 90, GE, D3),
    ("GE", "T1", "AX T1 SE PRE", "SE", "NONE", 600, 10, None, 90, GE, D2),
    ("GE", "T1c", "Ax T1 BRAVO +C", "GR", ["SS", "SP", "SK"], 8.2, 3.2, 450, 12, GE, {**D3, **GD}),
    ("GE", "T1c", "+C Ax T1 FSE", "SE", "SK", 600, 10, None, 90, GE, D2),
    ("GE", "T1c", "AX T1 POST GAD", "SE", "NONE", 600, 10, None, 90, GE, D2),
    ("GE", "T1c", "C+ Sag T1 CUBE", "SE", "SK", 600, 14, None, 90, GE, D3),
    ("GE", "T2", "Ax T2 FRFSE", "SE", "SK", 4800, 102, None, 142, GE, D2),
    ("GE", "T2", "Ax T2 PROPELLER", ["SE"], "SK", 5200, 115, None, 142, GE, D2),
    ("GE", "T2", "Sag T2 CUBE", "SE", "SK", 2500, 90, None, 90, GE, D3),
    ("GE", "FLAIR", "Ax T2 FLAIR", ["SE", "IR"], "SK", 9500, 120, 2250, 160, GE, D2),
    ("GE", "FLAIR", "Sag CUBE T2 FLAIR", ["SE", "IR"], "SK", 6000, 125, 1750, 90, GE, D3),
    ("GE", "FLAIR", "+C Ax T2 FLAIR", "RM", "SK", 9000, 140, 2400, 160, GE, {**D2, **GD}),
    ("GE", "other", "3-pl T2* FGRE S", "GR", "SS", 5.5, 1.6, None, 30, ["ORIGINAL", "PRIMARY", "LOCALIZER"], D2),
    ("GE", "other", "3Plane Loc", "GR", "SS", 5.5, 1.6, None, 30, GE, D2),
    ("GE", "other", "Calibration Scan", "GR", "SS", 150, 2.1, None, 30, GE, D2),
    ("GE", "other", "Ax DWI b1000", ["EP", "SE"], "NONE", 8000, 80, None, 90, GE, {**D2, "DiffusionBValue": 1000.0}),
    ("GE", "other", "ADC (10^-6 mm2/s)", ["EP", "SE"], "NONE", 8000, 80, None, 90, ["DERIVED", "PRIMARY", "ADC"], D2),
    ("GE", "other", "Ax SWAN", "GR", ["SS", "SP", "SK"], 40, 24, None, 15, GE, D3),
    ("GE", "other", "Ax T2* GRE", "GR", "SS", 600, 15, None, 20, GE, D2),
    ("GE", "other", "3D TOF COW", "GR", ["SS", "SP"], 22, 3.2, None, 20, GE, D3),
    ("GE", "other", "Ax FIESTA", "GR", ["SS", "SK"], 5.8, 2.2, None, 60, GE, D3),
    ("GE", "other", "3D ASL (non contrast)", "RM", "SK", 4800, 10.5, 2025, 111, ["ORIGINAL", "PRIMARY", "ASL"], D3),
    ("GE", "other", "Transit delay corrected CBF", "RM", "SK", 4800, 10.5, 2025, 111, ["DERIVED", "PRIMARY", "CBF", "CBF"], D3),
    ("GE", "other", "Ax Perfusion", ["EP", "GR"], "SS", 1800, 20, None, 60, GE, {**D2, **GD}),
    ("GE", "other", "FA(color)", ["EP", "SE"], "NONE", 8000, 80, None, 90, ["DERIVED", "SECONDARY", "FA"], D2),
    ("GE", "other", "Cor STIR", ["SE", "IR"], "SK", 4500, 45, 180, 110, GE, D2),
    ("GE", "other", "Collapse Images", "GR", "SS", 22, 3.2, None, 20, ["DERIVED", "PRIMARY", "PROJECTION"], D3),
    ("GE", "other", "DCE 3D SPGR dynamic", "GR", ["SS", "SP"], 4.2, 1.6, None, 25, GE, {**D3, **GD}),
    # Philips
    ("PHILIPS", "T1", "T1W_3D_TFE", "GR", "MP", 8.1, 3.7, None, 8, _philips("M", "FFE"), D3),
    ("PHILIPS", "T1", "sT1W_3D_TFE_SENSE", "GR", "MP", 7.2, 3.3, 900, 8, _philips("M", "FFE"), D3),
    ("PHILIPS", "T1", "T1W_SE", "SE", "SK", 550, 15, None, 69, _philips("M"), D2),
    ("PHILIPS", "T1", "T1W_IR_TSE", ["IR", "SE"], "SK", 2200, 20, 800, 90, _philips("M", "IR"), D2),
    ("PHILIPS", "T1", "3D_BrainVIEW_T1", "SE", "SK", 600, 28, None, 90, _philips("M"), D3),
    ("PHILIPS", "T1c", "T1W_3D_TFE_GD", "GR", "MP", 8.1, 3.7, None, 8, _philips("M", "FFE"), {**D3, **GD}),
    ("PHILIPS", "T1c", "T1W_SE +C", "SE", "SK", 550, 15, None, 69, _philips("M"), D2),
    ("PHILIPS", "T1c", "s3D T1 TFE inj", "GR", "MP", 8.1, 3.7, None, 8, _philips("M", "FFE"), D3),
    ("PHILIPS", "T2", "T2W_TSE", "SE", "SK", 3000, 80, None, 90, _philips("M"), D2),
    ("PHILIPS", "T2", "T2W_MVXD", "SE", "SK", 3400, 100, None, 90, _philips("M"), D2),
    ("PHILIPS", "T2", "3D_BrainVIEW_T2", "SE", "SK", 2500, 245, None, 90, _philips("M"), D3),
    ("PHILIPS", "FLAIR", "FLAIR_longTR", ["IR", "SE"], "SK", 11000, 125, 2800, 90, _philips("M", "IR"), D2),
    ("PHILIPS", "FLAIR", "3D_BrainVIEW_FLAIR_SHC", ["IR", "SE"], "SK", 4800, 320, 1650, 90, _philips("M", "IR"), D3),
    ("PHILIPS", "FLAIR", "T2W_FLAIR_SPAIR GD", ["IR", "SE"], "SK", 11000, 125, 2800, 90, _philips("M", "IR"), GD),
    ("PHILIPS", "other", "SURVEY", "GR", "SP", 11, 4.6, None, 15, _philips("M", "FFE"), D2),
    ("PHILIPS", "other", "DWI_SSh", "SE", "SK", 3200, 84, None, 90, _philips("M"), {**D2, "DiffusionBValue": 0.0}),
    ("PHILIPS", "other", "dDWI_SSh", "SE", "SK", 3200, 84, None, 90, ["DERIVED", "PRIMARY", "ADC", "M", "ADC"], D2),
    ("PHILIPS", "other", "SWIp", "GR", "SP", 31, 7.2, None, 17, _philips("M", "FFE"), D3),
    ("PHILIPS", "other", "VEN_BOLD", "GR", "SP", 16, 22, None, 10, _philips("M", "FFE"), D3),
    ("PHILIPS", "other", "T2W_FFE", "GR", "SP", 700, 16, None, 18, _philips("M", "FFE"), D2),
    ("PHILIPS", "other", "s3DI_MC_HR", "GR", "SP", 23, 3.5, None, 18, _philips("M", "FFE"), D3),
    ("PHILIPS", "other", "B0 NS", "GR", "SP", 3.8, 1.5, None, 12, ["ORIGINAL", "PRIMARY", "T1", "MIXED"], D3),
    ("PHILIPS", "other", "3D_B-FFE", "GR", "SS", 6, 3, None, 45, _philips("M", "FFE"), D3),
    ("PHILIPS", "other", "PERF DSC FEEPI", ["GR", "EP"], "SP", 1600, 40, None, 75, _philips("M", "FFE"), GD),
    ("PHILIPS", "other", "pCASL", ["GR"], "SP", 4000, 14, None, 90, _philips("M", "FFE"), D2),
    ("PHILIPS", "other", "PCA_MRV", "GR", "SP", 18, 6.3, None, 10, ["ORIGINAL", "PRIMARY", "PHASE CONTRAST M", "M", "PCA"], D3),
    ("PHILIPS", "other", "T2W_TSE_orbit", "SE", "SK", 3000, 80, None, 90, _philips("M"), D2),
    # Canon and Toshiba
    ("CANON_MEC", "T1", "3D T1 MPRAGE", ["GR", "IR"], "MP", 6.5, 2.7, 900, 9, ["ORIGINAL", "PRIMARY", "OTHER"], D3),
    ("TOSHIBA", "T1", "T1 SE AX", "SE", "NONE", 520, 12, None, 90, ["ORIGINAL", "PRIMARY"], D2),
    ("CANON_MEC", "T1c", "3D T1 MPRAGE CE", ["GR", "IR"], "MP", 6.5, 2.7, 900, 9, ["ORIGINAL", "PRIMARY", "OTHER"], {**D3, **GD}),
    ("TOSHIBA", "T1c", "T1 SE AX CE", "SE", "NONE", 520, 12, None, 90, ["ORIGINAL", "PRIMARY"], D2),
    ("CANON_MEC", "T2", "T2 FSE AX JET", "SE", "SK", 5500, 105, None, 90, ["ORIGINAL", "PRIMARY", "OTHER"], D2),
    ("CANON_MEC", "FLAIR", "FLAIR AX", ["SE", "IR"], "SK", 10000, 105, 2700, 90, ["ORIGINAL", "PRIMARY", "OTHER"], D2),
    ("CANON_MEC", "FLAIR", "3D MPV FLAIR SAG", ["SE", "IR"], "SK", 6000, 370, 1900, 90, ["ORIGINAL", "PRIMARY", "OTHER"], D3),
    ("CANON_MEC", "other", "Locator", "GR", "SP", 6.1, 2.1, None, 20, ["ORIGINAL", "PRIMARY", "LOCALIZER"], D2),
    ("CANON_MEC", "other", "DWI b=1000", ["SE", "EP"], "SK", 6200, 80, None, 90, ["ORIGINAL", "PRIMARY", "OTHER"], D2),
    ("CANON_MEC", "other", "ISO ADC", ["SE", "EP"], "SK", 6200, 80, None, 90, ["DERIVED", "PRIMARY", "ADC"], D2),
    ("CANON_MEC", "other", "T2*WI FE", "GR", "SP", 500, 15, None, 20, ["ORIGINAL", "PRIMARY", "OTHER"], D2),
    ("CANON_MEC", "other", "FSBB", "GR", "SP", 29, 20, None, 15, ["ORIGINAL", "PRIMARY", "OTHER"], D3),
    ("TOSHIBA", "other", "3D TOF MRA", "GR", "SP", 21, 3.4, None, 20, ["ORIGINAL", "PRIMARY"], D3),
)  # fmt: skip

# Real series by folder of the test data; anything under "failing" but the two MR ones is CT.
REAL = {
    "deidentified/GE_IRSPGR_196_mri_reface": "T1",
    "enhanced/Philips": "other",
    "enhanced/Siemens/XA10": "other",
    "enhanced/philips_anatomical/001": "T1",
    "enhanced/philips_anatomical/001_implicit": "T1",
    "failing/gantrytilting/001": "other",
    "failing/notavolume/001": "other",
    "failing/slicecount/001": "FLAIR",
    "failing/sliceincrement/001": "other",
    "failing/sliceincrement/002": "other",
    "failing/sliceorientation/001": "T2",
    "orientation": "other",
    "transfer_syntaxes": "other",
}


def simulated(*, without: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Dataset]]:
    """(name, truth, header) of each row; ``without`` leaves attributes out, as de-identified or poor headers do."""
    for vendor, truth, description, scanning, variant, tr, te, ti, flip, image_type, more in SERIES:
        one = Dataset()
        values = {
            "Modality": "MR", "Manufacturer": MANUFACTURERS.get(vendor, vendor), "SeriesDescription": description,
            "ImageType": image_type,
            "ScanningSequence": scanning, "SequenceVariant": variant, "RepetitionTime": tr, "EchoTime": te,
            "InversionTime": ti, "FlipAngle": flip, "MagneticFieldStrength": 3, **more,
        }  # fmt: skip
        for keyword, value in values.items():
            if value is not None and keyword not in without:
                setattr(one, keyword, value)
        yield f"{vendor}: {description}", truth, one


def real(folder: Path) -> Iterator[tuple[str, str, Dataset]]:
    """(folder, truth, header) of the first image of each real series folder."""
    for path in sorted({one.parent for one in folder.rglob("*") if one.is_file()}):
        name = str(path.relative_to(folder))
        truth = REAL.get(name, REAL.get(name.split("/")[0]))
        for file in sorted(path.iterdir()):
            if file.is_file():
                header = dcmread(file, force=True, stop_before_pixels=True)
                if header.get("Modality"):
                    assert truth is not None, f"no truth is written down for {name}"
                    yield name, truth, header
                    break
