"""Synthetic patients with a history: one head, a tumour that changes between visits, a scanner that never repeats itself."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .acquisition import ScanGrid
from .anatomy import Anatomy, Maps, Place
from .contrast import SEQUENCES, Look, paint_brain, random_look
from .dataset import REGION_LABELS
from .fields import FieldSource, Floats, Grid, soft_step
from .head import paint_outside, random_shell
from .midline import MidlineTruth, midline_truth
from .scanner import Difficulty, choose_grid, choose_motion, choose_pose, choose_scanner, scan_sequence, scanner_flaws
from .tumour import Lesion, TumourMaps, render_lesions

__all__ = [
    "SCENARIOS",
    "AcquiredSeries",
    "AcquiredStudy",
    "PatientIdentity",
    "SyntheticPatient",
    "Truth",
]

# FLAIR signal of oedema, white matter = 1. Training draws from 1.4 on; what is to be an ordinary image should be one.
_ORDINARY_OEDEMA = 1.65
# Per visit: growth of each lesion's core relative to the first visit (0: gone) and reach of its oedema in mm.
_Course = tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Scenario:
    """Lesions as (kind, MNI centre, radius mm) and their course: one row a visit, (growth, oedema mm) per lesion.

    push: share of the core's volume by which tissue was pushed aside, where it is not left to chance.
    """

    lesions: tuple[tuple[str, tuple[float, float, float], float], ...]
    course: _Course
    days: tuple[int, ...]
    push: float | None = None


_LEFT_FRONTAL, _RIGHT_TEMPORAL = (-31.0, 26.0, 24.0), (42.0, -24.0, -8.0)
_RIGHT_PARIETAL, _LEFT_OCCIPITAL = (32.0, -46.0, 34.0), (-27.0, -72.0, 8.0)

SCENARIOS: dict[str, Scenario] = {
    "progression": Scenario(
        (("ring", _RIGHT_TEMPORAL, 15.0),), (((1.0, 10.0),), ((1.22, 14.0),), ((1.45, 18.0),)), (0, 58, 121)
    ),
    "response": Scenario(
        (("ring", _LEFT_FRONTAL, 18.0),), (((1.0, 16.0),), ((0.82, 11.0),), ((0.62, 6.0),)), (0, 61, 124)
    ),
    "stable": Scenario(
        (("solid", _RIGHT_PARIETAL, 14.0),), (((1.0, 10.0),), ((1.02, 9.5),), ((0.99, 10.0),)), (0, 84, 168)
    ),
    "two-lesions": Scenario(
        (("ring", _LEFT_FRONTAL, 15.0), ("solid", _LEFT_OCCIPITAL, 9.5)),
        (((1.0, 13.0), (1.0, 8.0)), ((1.08, 12.0), (0.0, 0.0)), ((1.15, 14.0), (0.0, 0.0))),
        (0, 63, 126),
    ),
    "follow-up": Scenario(
        (("ring", _LEFT_FRONTAL, 17.0), ("solid", _LEFT_OCCIPITAL, 10.0)),
        (((1.0, 13.0), (1.0, 8.0)), ((0.92, 11.0), (0.0, 0.0))),
        (0, 91),
    ),
    "new-lesion": Scenario(
        (("ring", _RIGHT_PARIETAL, 15.0), ("nodule", _LEFT_FRONTAL, 9.0)),
        (((1.0, 12.0), (0.0, 0.0)), ((0.95, 10.0), (1.0, 9.0))),
        (0, 70),
    ),
    "midline-shift": Scenario(
        (("ring", (30.0, 4.0, 20.0), 24.0),), (((1.0, 14.0),), ((0.8, 10.0),), ((1.15, 16.0),)), (0, 59, 118), push=0.9
    ),
    "tumour-free": Scenario((), ((), ()), (0, 180)),
}


@dataclass(frozen=True)
class PatientIdentity:
    """Who the synthetic patient claims to be. family/given as in PN; sex M, F or O."""

    family: str
    given: str
    patient_id: str
    birth_date: dt.date
    sex: str
    issuer: str = "ONCOFLOW-SIM"


@dataclass(frozen=True)
class Truth:
    """The true label map of one visit, 1 mm isotropic (or the patient's coarser spacing).

    labels (x, y, z) uint8: 1 NCR, 2 ED, 3 ET; lesions (x, y, z) uint8: number of the lesion (1..n, in the scenario's
    order); affine: voxel to RAS mm, of head space or, in an AcquiredStudy, of the world in which T1c was acquired.
    volumes_mm3 by region (ET, TC, WT); lesion_volumes_mm3 by lesion number (lesions that are gone are absent).
    """

    labels: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    affine: NDArray[np.float64]
    volumes_mm3: dict[str, float]
    lesion_volumes_mm3: dict[int, dict[str, float]]

    def save(self, path: Path) -> None:
        """Write the label map as NIfTI. NIfTI's world is RAS; DICOM's LPS differs by the sign of x and y only."""
        image = nib.Nifti1Image(self.labels, self.affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, path)


@dataclass(frozen=True)
class AcquiredSeries:
    """One sequence as the scanner stored it.

    pixels (columns, rows, slices) uint16, 12 bits stored; grid.affine maps (column, row, slice) to RAS mm;
    to_world: where the head lay meanwhile, head space to RAS mm.
    """

    sequence: str
    pixels: NDArray[np.uint16]
    grid: ScanGrid
    to_world: NDArray[np.float64]

    def save_nifti(self, path: Path) -> None:
        """Write the series as NIfTI in its own geometry."""
        nib.save(nib.Nifti1Image(self.pixels.astype(np.int16), self.grid.affine), path)


@dataclass(frozen=True)
class AcquiredStudy:
    """One examination: its series by sequence, the truth in the world of T1c, and what the header needs."""

    patient: PatientIdentity
    seed: int
    scenario: str
    visit: int
    when: dt.datetime
    accession_number: str
    difficulty: str
    series: dict[str, AcquiredSeries]
    truth: Truth

    def save_truth(self, path: Path) -> None:
        """Write the true label map (NIfTI, world frame of this visit's T1c)."""
        self.truth.save(path)


_FAMILY = (
    "Hartwell",
    "Okonkwo",
    "Lindqvist",
    "Marchetti",
    "Delacroix",
    "Novak",
    "Ferreira",
    "Whitcombe",
    "Tanaka",
    "Brandt",
)
_GIVEN_F = ("Eleanor", "Amara", "Ingrid", "Lucia", "Margaux", "Petra", "Beatriz", "Harriet", "Yuki", "Johanna")
_GIVEN_M = ("Edmund", "Chidi", "Anders", "Matteo", "Etienne", "Pavel", "Rafael", "Giles", "Haruto", "Matthias")


def _identity(seed: int) -> PatientIdentity:
    rng = FieldSource(seed).rng(300)
    sex = str(rng.choice(["F", "M"]))
    names = _GIVEN_F if sex == "F" else _GIVEN_M
    born = dt.date(1940, 1, 1) + dt.timedelta(days=int(rng.integers(0, 365 * 45)))
    return PatientIdentity(
        str(rng.choice(_FAMILY)),
        str(rng.choice(names)),
        f"SIM{seed:07d}",
        born,
        sex,
    )


class SyntheticPatient:
    """A synthetic patient; everything follows from `seed` and `scenario` (a key of SCENARIOS).

    identity replaces the made-up one (for a patient the EMR already knows); first_visit is when visit 0 took place.
    spacing (mm, 1 or 2) is that of the truth and of what is scanned; 2 is coarse and ten times as fast.
    """

    def __init__(
        self,
        seed: int,
        scenario: str = "progression",
        *,
        identity: PatientIdentity | None = None,
        first_visit: dt.datetime | None = None,
        spacing: Literal[1, 2] = 1,
    ) -> None:
        if scenario not in SCENARIOS:
            raise ValueError(f"Unknown scenario {scenario!r}. Known: {', '.join(sorted(SCENARIOS))}.")
        self.seed = seed
        self.scenario = scenario
        self.identity = identity or _identity(seed)
        self.first_visit = first_visit or dt.datetime(2026, 3, 2, 9, 20, tzinfo=dt.UTC)
        self._plan = SCENARIOS[scenario]
        self._source = FieldSource(seed)
        self._anatomy = Anatomy(seed)
        extent = self._anatomy.scale * np.array([[-76.0, -108.0, -76.0], [76.0, 78.0, 88.0]])
        # On even millimetres, where the voxels of the wide grid are too.
        first = 2.0 * np.floor(extent[0] / 2.0 - 2.0)
        shape = np.ceil((extent[1] + 4.0 - first) / spacing).astype(int)
        self._grid = Grid((first[0], first[1], first[2]), float(spacing), (int(shape[0]), int(shape[1]), int(shape[2])))
        self._wide = Grid((-100.0, -132.0, -126.0), 2.0, (101, 128, 122))
        self._mni: Floats | None = None
        self._drawn: tuple[int, Maps, TumourMaps, Truth] | None = None
        self._surroundings: dict[str, Floats] = {}
        self._wide_place: Place | None = None
        self._shell = random_shell(self._source.rng(330))
        self._base = self._base_lesions()

    @property
    def visits(self) -> int:
        """How many visits the scenario has."""
        return len(self._plan.course)

    def when(self, visit: int) -> dt.datetime:
        """Date and time of a visit."""
        self._check(visit)
        return self.first_visit + dt.timedelta(days=self._plan.days[visit])

    def lesions(self, visit: int) -> list[tuple[int, Lesion]]:
        """(number, lesion) of the lesions present at a visit; numbers (from 1) are kept between visits."""
        self._check(visit)
        course = self._plan.course[visit]
        return [
            (number, base.grown(growth, oedema=oedema))
            for number, (base, (growth, oedema)) in enumerate(zip(self._base, course, strict=True), start=1)
            if growth > 0
        ]

    def visit(self, visit: int) -> Truth:
        """The truth of a visit in head space."""
        return self._draw(visit)[2]

    def brain(self, visit: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """The true brain (x, y, z) at a visit and its affine, head space."""
        return self._draw(visit)[0].brain_distance < 0.5, self._grid.affine

    def midline(self, visit: int) -> MidlineTruth:
        """Where the midline lies at a visit, in head space."""
        return midline_truth(self._draw(visit)[0])

    def acquire(
        self,
        visit: int,
        *,
        difficulty: Difficulty = "clean",
        skull: bool = True,
        sequences: tuple[str, ...] = SEQUENCES,
        accession_number: str | None = None,
        repeat: int = 0,
    ) -> AcquiredStudy:
        """Scan the patient at a visit.

        repeat: the same visit scanned once more (1, 2 ...): nothing in the head has changed, but it lies otherwise, on
        another scanner with its own contrast, slices, bias and noise.

        difficulty "hard": faint enhancement, strong noise and bias, motion; skull=False: exactly 0 outside the brain.
        Leaving sequences out makes an incomplete study. ValueError for an unknown visit, sequence or difficulty.
        """
        if difficulty not in ("clean", "hard"):
            raise ValueError(f"Unknown difficulty {difficulty!r}: clean or hard.")
        unknown = set(sequences) - set(SEQUENCES)
        if unknown:
            raise ValueError(f"Unknown sequences {sorted(unknown)}. Known: {', '.join(SEQUENCES)}.")
        truth = self._draw(visit)[2]
        images, head = self._render(visit, difficulty, skull)
        again = (repeat,) if repeat else ()
        rng = self._source.rng(400, visit, int(difficulty == "hard"), *again)
        pose = choose_pose(rng)
        series: dict[str, AcquiredSeries] = {}
        world = pose
        # Drawn for every sequence, so that leaving one out changes nothing in the others.
        for n, sequence in enumerate(SEQUENCES):
            to_world = choose_motion(rng) @ pose
            if sequence == "T1c":
                world = to_world
            thickness, contrast = choose_scanner(rng) if repeat else (None, 1.0)
            grid = choose_grid(sequence, pose, rng, difficulty, thickness)
            flaw = scanner_flaws(rng, difficulty, grid.slice_thickness)
            if sequence in sequences:
                names = (visit, int(difficulty == "hard"), *again, n)
                if repeat:
                    images[n] = np.maximum(images[n], 0.0) ** np.float32(contrast)
                pixels = scan_sequence(
                    images[n], head, grid, to_world, flaw, self._source, names, noise_everywhere=skull
                )
                series[sequence] = AcquiredSeries(sequence, pixels, grid, to_world)
        accession = accession_number or f"A{self.seed % 10**7:07d}{visit:02d}{repeat or ''}"
        return AcquiredStudy(
            patient=self.identity,
            seed=self.seed,
            scenario=self.scenario,
            visit=visit,
            when=self.when(visit),
            accession_number=accession,
            difficulty=difficulty,
            series=series,
            truth=replace(truth, affine=world @ truth.affine),
        )

    def _check(self, visit: int) -> None:
        if not 0 <= visit < self.visits:
            raise ValueError(f"Visit {visit} is not one of the {self.visits} visits of scenario {self.scenario!r}.")

    def _base_lesions(self) -> tuple[Lesion, ...]:
        made = []
        for n, (kind, mni_centre, radius) in enumerate(self._plan.lesions):
            rng = self._source.rng(310, n)
            centre = self._anatomy.head_position(np.asarray(mni_centre) + rng.normal(0, 2.5, 3))
            stretch = np.exp(rng.normal(0, 0.1, 3))
            made.append(
                Lesion(
                    seed=int(rng.integers(2**31)),
                    kind=kind,
                    centre=(float(centre[0]), float(centre[1]), float(centre[2])),
                    radius=radius,
                    stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
                    lumpiness=float(rng.uniform(0.1, 0.2)),
                    rim=float(rng.uniform(3.5, 5.0)),
                    septa=float(rng.uniform(0.2, 0.6)) if rng.random() < 0.3 else 0.0,
                    oedema=10.0,
                    grey_resistance=float(rng.uniform(6.0, 10.0)),
                    push=float(rng.uniform(0.3, 0.6)) if self._plan.push is None else self._plan.push,
                )
            )
        return tuple(made)

    def _draw(self, visit: int) -> tuple[Maps, TumourMaps, Truth]:
        """Anatomy, tumour and truth of a visit; the last visit drawn is kept."""
        self._check(visit)
        if self._drawn is not None and self._drawn[0] == visit:
            return self._drawn[1:]
        if self._mni is None:
            self._mni = self._anatomy.coordinates(self._grid)
        numbered = self.lesions(visit)
        maps = self._anatomy.maps(self._grid, [lesion.mass for _, lesion in numbered], self._mni)
        tumour = render_lesions([lesion for _, lesion in numbered], maps)
        # Positions in the list become the lesions' lasting numbers.
        which = np.array([0, *(number for number, _ in numbered)], np.uint8)[tumour.lesion]
        voxel = float(abs(np.linalg.det(self._grid.affine[:3, :3])))

        def volumes(labels: NDArray[np.uint8]) -> dict[str, float]:
            return {r: voxel * float(np.isin(labels, REGION_LABELS[r]).sum()) for r in ("ET", "TC", "WT")}

        truth = Truth(
            labels=tumour.labels,
            lesions=which,
            affine=self._grid.affine,
            volumes_mm3=volumes(tumour.labels),
            lesion_volumes_mm3={number: volumes(tumour.labels[which == number]) for number, _ in numbered},
        )
        self._drawn = (visit, maps, tumour, truth)
        return maps, tumour, truth

    def _look(self, difficulty: Difficulty) -> Look:
        kind = self._base[0].kind if self._base else ""
        enhancement = (0.9, 1.02) if difficulty == "hard" else (1.35, 1.8)
        rng = self._source.rng(320)
        look = random_look(rng, enhancement=enhancement, kind=kind)
        while difficulty != "hard" and look.oedema[3] < _ORDINARY_OEDEMA:
            look = random_look(rng, enhancement=enhancement, kind=kind)
        look = replace(look, blood_amount=0.0, white_lesions=min(look.white_lesions, 0.4))
        dura = (look.dura[0], min(look.dura[1], 1.5), look.dura[2], look.dura[3])
        look = replace(look, dura=dura)
        if difficulty == "hard":
            # Oedema that is hardly brighter than cortex, and fades at its border.
            pairs = zip(look.oedema, look.grey, strict=True)
            a, b, c, d = (float(0.6 * oedema + 0.4 * grey) for oedema, grey in pairs)
            look = replace(look, oedema=(a, b, c, d), oedema_edge=(0.35, 16.0))
        return look

    def _around(self, difficulty: Difficulty) -> Floats:
        """Skull, scalp, face and neck (4, x, y, z) at 2 mm. A mass moves none of them, so they are made once."""
        if difficulty not in self._surroundings:
            if self._wide_place is None:
                self._wide_place = self._anatomy.place(self._wide)
            look = self._look(difficulty)
            images = np.empty((4, *self._wide.shape), np.float32)
            for image, value in zip(images, look.csf, strict=True):
                image[...] = value
            paint_outside(self._wide_place, images, look, self._shell, self._source, face=True)
            self._surroundings = {difficulty: images}
        return self._surroundings[difficulty]

    def _render(self, visit: int, difficulty: Difficulty, skull: bool) -> tuple[Floats, Grid]:
        """Noise-free head (4, x, y, z) at 1 mm and its grid (of the whole head, or of the brain without skull)."""
        maps, tumour, _ = self._draw(visit)
        brain = paint_brain(maps, tumour, self._look(difficulty), self._source)
        if not skull:
            inside = maps.brain_distance < 0.5
            return np.maximum(brain, 0.01) * inside, self._grid
        around = self._around(difficulty)
        head = self._wide
        if self._grid.spacing < head.spacing:
            x, y, z = (2 * n - 1 for n in head.shape)
            head = Grid(head.origin, head.spacing / 2.0, (x, y, z))
        start = [round((b - w) / head.spacing) for b, w in zip(self._grid.origin, self._wide.origin, strict=True)]
        box = tuple(slice(s, s + n) for s, n in zip(start, self._grid.shape, strict=True))
        share = soft_step(np.float32(self._shell.fluid + 0.3) - maps.brain_distance, 0.4)
        images = np.empty((4, *head.shape), np.float32)
        for n in range(4):
            images[n] = around[n] if head is self._wide else _doubled(around[n])
            part = images[n][box]
            part += share * (np.maximum(brain[n], 0.0) - part)
        return images, head


def _doubled(image: Floats) -> Floats:
    """Linear interpolation to half the spacing; n samples along an axis become 2 n - 1."""
    for axis in range(3):
        image = np.moveaxis(image, axis, 0)
        out = np.empty((2 * image.shape[0] - 1, *image.shape[1:]), np.float32)
        out[::2] = image
        out[1::2] = 0.5 * (image[:-1] + image[1:])
        image = np.moveaxis(out, 0, axis)
    return image
