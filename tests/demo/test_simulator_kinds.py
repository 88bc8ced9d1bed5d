"""The named kinds of simulated cases: the table, what each shows, and leaving them out."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import oncoflow_site.demo.simulator
from oncoflow_site.demo.simulator.__main__ import main
from oncoflow_site.demo.simulator.cases import Case, SimulatedCase
from oncoflow_site.demo.simulator.dataset import plan_cases, simulate_case
from oncoflow_site.demo.simulator.kinds.flaws import slice_profile
from oncoflow_site.demo.simulator.kinds.mimics import MIMICS
from oncoflow_site.demo.simulator.kinds.table import KINDS, UnknownKind, kinds_of, markdown, plan_kinds, shares
from oncoflow_site.demo.simulator.kinds.tumours import TUMOURS

FLAWS = [kind.name for kind in KINDS if kind.category in ("flaw", "look")]


@cache
def simulated(*kinds: str, seed: int = 5, spacing: float = 4.0) -> SimulatedCase:
    return simulate_case(Case("X", seed, True, any(k in TUMOURS for k in kinds), spacing, kinds))


def relative(case: SimulatedCase, where: np.ndarray, channel: int) -> float:
    """Median intensity where, by that of the whole brain."""
    image = case.images[channel].astype(float)
    return float(np.median(image[where]) / np.median(image[image > 0]))


def test_table_names_what_there_is() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert [kind.name for kind in KINDS if kind.category == "tumour"] == list(TUMOURS)
    assert [kind.name for kind in KINDS if kind.category == "mimic"] == list(MIMICS)
    assert sum(kind.share for kind in KINDS if kind.category == "tumour") == pytest.approx(1.0)


def test_documentation_prints_the_table() -> None:
    readme = Path(oncoflow_site.demo.simulator.__file__).parent / "README.md"
    assert markdown() in readme.read_text("utf-8")


def test_shares_follow_what_is_left_out_and_asked_for() -> None:
    some = shares(leave_out=["butterfly", "infarct"])
    assert "butterfly" not in some
    assert "infarct" not in some
    assert sum(some[name] for name in TUMOURS if name in some) == pytest.approx(1.0)
    only = shares(only=["tiny", "metastases", "motion"])
    assert {name for name in only if name in TUMOURS} == {"tiny", "metastases"}
    assert [name for name in only if name in FLAWS] == ["random-appearance", "motion"]
    assert only["motion"] == 1.0
    assert only["infarct"] == next(kind.share for kind in KINDS if kind.name == "infarct")


@pytest.mark.parametrize(
    "choice", [{"leave_out": ["butterflies"]}, {"leave_out": list(TUMOURS)}, {"leave_out": ["tiny"], "only": ["tiny"]}]
)
def test_impossible_selections_are_refused(choice: dict[str, list[str]]) -> None:
    with pytest.raises(UnknownKind):
        shares(**choice)


def test_plan_has_the_shares_of_the_table() -> None:
    cases = plan_kinds(6000, 1000, 1, 2.0)
    assert len({case.seed for case in cases}) == 7000
    training = [case for case in cases if not case.held_out]
    tumours = [case for case in training if case.tumour]
    assert len(tumours) == round(0.72 * 6000)
    for kind in KINDS:
        group = tumours if kind.category == "tumour" else training
        share = sum(kind.name in case.kinds for case in group) / len(group)
        if kind.category != "mimic":
            assert share == pytest.approx(kind.share, abs=0.03), kind.name
        else:
            assert share > 0.4 * kind.share, kind.name
    free = [case for case in training if not case.tumour]
    assert all(set(case.kinds) & set(MIMICS) for case in free)


def test_leaving_a_kind_out_changes_no_other_draw() -> None:
    for seed in range(40):
        everything = kinds_of(np.random.default_rng(seed), True, shares())
        less = kinds_of(np.random.default_rng(seed), True, shares(leave_out=["motion", "infarct"]))
        assert less == tuple(name for name in everything if name not in ("motion", "infarct"))


def test_seeds_of_kinds_are_not_those_of_the_classic_datasets() -> None:
    # Random fields look at the lower 32 bits.
    ours = {case.seed % 2**32 // 2**24 for case in plan_kinds(50, 10, 3, 2.0)}
    theirs = {case.seed % 2**32 // 2**24 for seed in (1, 4713) for case in plan_cases(50, 10, seed, 2.0)}
    assert not ours & theirs
    with pytest.raises(ValueError, match="0 to 63"):
        plan_kinds(1, 0, 64, 2.0)


@pytest.mark.parametrize("kind", TUMOURS)
def test_every_kind_of_tumour_has_one(kind: str) -> None:
    case = simulated(kind)
    assert case.record["kinds"] == [kind]
    assert case.labels.any()
    assert set(np.unique(case.labels)) <= {0, 1, 2, 3}
    inside = case.images[0] > 0
    assert not case.labels[~inside].any()
    assert (case.cavity is not None and bool(case.cavity.any())) == (kind == "resection")


def test_a_case_follows_from_its_seed() -> None:
    case = Case("X", 9, True, True, 4.0, ("resection", "infarct", "strip-errors", "misregistered", "windowed"))
    one, two = simulate_case(case), simulate_case(case)
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.labels, two.labels)


@pytest.mark.parametrize("kind", MIMICS)
def test_mimics_change_the_picture_and_have_no_label(kind: str) -> None:
    with_it, without = simulated(kind), simulate_case(Case("X", 5, True, False, 4.0, ("windowed",)))
    assert not with_it.labels.any()
    assert with_it.images.shape == without.images.shape
    assert not np.array_equal(with_it.images, without.images)


def test_a_mimic_does_not_touch_the_labels_of_a_tumour() -> None:
    alone, beside = simulated("cyst-with-rim"), simulated("cyst-with-rim", "small-vessel", "multiple-sclerosis")
    assert np.array_equal(alone.labels, beside.labels)


def test_infiltrated_cortex_is_bright_in_flair_and_hardly_in_t2() -> None:
    ratios = []
    for seed in range(4):
        case = simulated("infiltrated-cortex", seed=seed)
        where = case.labels == 2
        assert where.any()
        ratios.append((relative(case, where, 3), relative(case, where, 2)))
    flair, t2 = np.median(ratios, axis=0)
    assert flair > 1.15
    assert t2 < 1.6


def test_cysts_are_dark_in_flair_and_bright_in_t2() -> None:
    for kind in ("cyst-with-rim", "cyst-without-rim"):
        case = simulated(kind)
        core = case.labels == 1
        assert relative(case, core, 3) < 0.9
        assert relative(case, core, 2) > 1.5
        assert relative(case, core, 1) < 0.9


def test_the_cavity_is_apart_from_the_labels() -> None:
    case = simulated("resection")
    assert case.cavity is not None
    assert case.record["volumes_ml"]["RC"] > 0.5
    assert not case.labels[case.cavity].any()


@pytest.mark.parametrize("kind", FLAWS)
def test_looks_and_flaws_change_images_and_not_labels(kind: str) -> None:
    plain, flawed = simulated("classic"), simulated("classic", kind)
    if kind == "strip-errors":
        assert plain.labels.shape != flawed.labels.shape or not np.array_equal(plain.images > 0, flawed.images > 0)
        return
    assert np.array_equal(plain.labels, flawed.labels)
    assert not np.array_equal(plain.images, flawed.images)


def test_slices_average_and_keep_a_constant() -> None:
    profile = slice_profile(40, 2.0, 6.0, 0.3)
    np.testing.assert_allclose(profile.sum(axis=1), 1.0, atol=1e-5)
    edge = profile @ (np.arange(40) >= 20).astype(np.float32)
    # The step is spread over about a slice, and nothing beyond two slices is touched.
    assert ((edge > 0.01) & (edge < 0.99)).sum() in range(2, 7)
    np.testing.assert_allclose(edge[:13], 0.0, atol=1e-6)
    np.testing.assert_allclose(edge[27:], 1.0, atol=1e-6)


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownKind):
        simulate_case(Case("X", 1, True, True, 4.0, ("infarct",)))
    with pytest.raises(UnknownKind):
        simulate_case(replace(Case("X", 1, True, False, 4.0), kinds=("no-such",)))


def test_command_writes_cases_of_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cases", "1", "--held-out", "1", "--seed", "3", "--spacing", "4", "--tumour-free", "0"]
    assert main(["dataset", "--out", str(tmp_path), *options, "--only", "resection"]) == 0
    records = json.loads((tmp_path / "cases.json").read_text())
    assert all("resection" in record["kinds"] for record in records["cases"])
    cavity = nib.load(tmp_path / "cavitiesTr" / "KIND_0000.nii.gz")
    labels = nib.load(tmp_path / "labelsTr" / "KIND_0000.nii.gz")
    assert cavity.shape == labels.shape
    assert np.asarray(cavity.dataobj).any()
    assert not np.asarray(labels.dataobj)[np.asarray(cavity.dataobj) > 0].any()
    with pytest.raises(SystemExit):
        main(["dataset", "--out", str(tmp_path), "--only", "no-such-kind"])
    assert "no-such-kind" in capsys.readouterr().err
    assert main(["kinds"]) == 0
    assert capsys.readouterr().out == markdown()
