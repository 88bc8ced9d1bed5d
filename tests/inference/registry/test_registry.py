"""Weights come in only when asked for and only as they were named; any trained nnU-Net folder becomes an expert."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError

from inference.experts.contract import Volumes
from inference.experts.errors import WeightsMismatch, WeightsMissing
from inference.experts.nnunet import NnUNetExpert
from inference.experts.weights import sha256_of
from inference.models import ModelVersion
from inference.registry.download import pull, tree_digest
from inference.registry.package_weights import describe, write_model_json_for
from oncoflow_site.foundation.errors import UserVisibleError
from oncoflow_site.settings import panel_from

pytestmark = pytest.mark.torch

CHANNELS = ("T1", "T1c", "T2", "FLAIR")


FIGURES = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")


def plans(channels: int = 4) -> dict:
    """plans.json of a network of two stages, as nnU-Net's planner writes it."""
    resample = {"is_seg": False, "num_threads": 1}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "median_image_size_in_voxels": [20, 22, 24],
        "spacing": [2.0, 2.0, 2.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] * channels,
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_seg": "resample_torch_fornnunet",
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg_kwargs": {"is_seg": True, "num_threads": 1},
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": resample,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 2,
                "strides": [[1, 1, 1], [2, 2, 2]],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    return {
        "dataset_name": "tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 2.0, 2.0],
        "original_median_shape_after_transp": [20, 22, 24],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): dict.fromkeys(FIGURES, 1.0) for c in range(channels)},
        "configurations": {"3d_fullres": configuration},
    }


def trained_folder(
    folder: Path,
    labels: dict,
    *,
    channels: tuple[str, ...] = CHANNELS,
    folds: tuple[int, ...] = (0,),
    extra: object = None,
) -> Path:
    """What nnU-Net's training leaves, with a network of random weights."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder.mkdir(parents=True)
    regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
    dataset = {"channel_names": {str(i): n for i, n in enumerate(channels)}, "labels": labels, "numTraining": 7}
    dataset |= {"file_ending": ".nii.gz"} | ({"regions_class_order": [2, 1, 3]} if regions else {})
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans(len(channels))))
    manager = PlansManager(plans(len(channels)))
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    for fold in folds:
        torch.manual_seed(fold)
        network = nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), len(channels), heads, enable_deep_supervision=False
        )
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        if extra is not None:
            checkpoint["logging"] = extra
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def added(folder: Path, name: str = "m", **more) -> Path:
    write_model_json_for(folder, describe(folder, name=name, kind="nnunet", **more))
    return folder


@pytest.fixture(scope="module")
def volumes() -> Volumes:
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 22, 24), bool)
    mask[3:17, 3:19, 3:21] = True
    images = {name: np.where(mask, rng.normal(100, 20, mask.shape), 0).astype(np.float32) for name in CHANNELS}
    return Volumes(images, (2.0, 2.0, 2.0), mask)


def answer(folder: Path, volumes: Volumes, **more) -> dict:
    output = NnUNetExpert("m", folder, **more).predict(volumes)
    assert set(output.probabilities) == {"ET", "TC", "WT"}
    return {region: p.astype(np.float32) for region, p in output.probabilities.items()}


REGIONS_LABELS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
TISSUES = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
OLD_BRATS = {"background": 0, "NCR": 1, "ED": 2, "ET": 4}


@pytest.mark.parametrize(
    "labels", [REGIONS_LABELS, TISSUES, OLD_BRATS], ids=["regions", "labels 1 2 3", "labels 1 2 4"]
)
def test_models_of_regions_and_of_labels_answer_for_the_regions(tmp_path: Path, volumes: Volumes, labels: dict) -> None:
    found = answer(added(trained_folder(tmp_path / "m", labels)), volumes)
    assert (found["ET"] <= found["TC"]).all()
    assert (found["TC"] <= found["WT"]).all()
    assert 0 < found["WT"][volumes.brain_mask].mean() < 1
    assert not found["WT"][~volumes.brain_mask].any()


def test_label_four_is_the_third_channel(tmp_path: Path, volumes: Volumes) -> None:
    """The same network, once trained with labels 1 2 3 and once with 1 2 4: the same answer."""
    one = answer(added(trained_folder(tmp_path / "a", TISSUES)), volumes)
    other = answer(added(trained_folder(tmp_path / "b", OLD_BRATS)), volumes)
    assert all(np.array_equal(one[region], other[region]) for region in one)


def test_channels_are_given_in_the_models_own_order(tmp_path: Path, volumes: Volumes) -> None:
    import torch

    straight = answer(added(trained_folder(tmp_path / "a", REGIONS_LABELS)), volumes)
    turned = trained_folder(tmp_path / "b", REGIONS_LABELS, channels=("t2f", "T1w", "t1gd", "T2w"))
    path = turned / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    # The first layer's input channels in the new order: the same function of the same images.
    for name, value in checkpoint["network_weights"].items():
        if value.ndim == 5 and value.shape[1] == 4 and "stages.0.0.convs.0" in name:
            checkpoint["network_weights"][name] = value[:, [3, 0, 1, 2]].contiguous()
    torch.save(checkpoint, path)
    found = answer(added(turned), volumes)
    assert all(np.allclose(found[region], straight[region], atol=2e-3) for region in found)


def test_folds_are_averaged_and_flips_are_a_switch(tmp_path: Path, volumes: Volumes) -> None:
    both = trained_folder(tmp_path / "m", TISSUES, folds=(0, 1))
    logits = {}
    for fold in (0, 1, None):
        (both / "model.json").unlink(missing_ok=True)
        added(both, folds=() if fold is None else (fold,))
        logits[fold] = answer(both, volumes)["WT"][volumes.brain_mask]
    assert not np.allclose(logits[0], logits[1], atol=0.01)
    # Averaged logits lie between: nowhere above the larger or below the smaller, but for float16 and the softmax's bend.
    low, high = np.minimum(logits[0], logits[1]), np.maximum(logits[0], logits[1])
    assert ((logits[None] > low - 0.1) & (logits[None] < high + 0.1)).mean() > 0.99
    assert not np.allclose(logits[None], logits[0], atol=0.005)
    plain = answer(both, volumes, mirroring=False)["WT"]
    flipped = answer(both, volumes, mirroring=True)["WT"]
    assert not np.allclose(plain, flipped, atol=1e-3)
    (both / "model.json").unlink()
    added(both, mirroring=True)
    assert np.array_equal(answer(both, volumes)["WT"], flipped)


def test_the_same_input_gives_the_same_mask_twice(tmp_path: Path, volumes: Volumes) -> None:
    folder = added(trained_folder(tmp_path / "m", REGIONS_LABELS))
    expert = NnUNetExpert("m", folder)
    one, two = expert.predict(volumes), expert.predict(volumes)
    other = NnUNetExpert("m", folder).predict(volumes)
    for region in one.probabilities:
        assert np.array_equal(one.probabilities[region], two.probabilities[region])
        assert np.array_equal(one.probabilities[region], other.probabilities[region])


def test_plans_may_name_networks_only(tmp_path: Path, volumes: Volumes) -> None:
    for key, value in (("network_class_name", "os.system"), ("nonlin", "subprocess.Popen")):
        folder = trained_folder(tmp_path / key, REGIONS_LABELS)
        hostile = plans()
        architecture = hostile["configurations"]["3d_fullres"]["architecture"]
        (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
        (folder / "plans.json").write_text(json.dumps(hostile))
        with pytest.raises(WeightsMismatch, match=value.split(".")[0]):
            NnUNetExpert("m", added(folder)).load()


# --- add ----------------------------------------------------------------------------------------------------------------


class Code:
    """What a hostile pickle does."""

    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.django_db
def test_add_describes_registers_and_advises(tmp_path: Path, settings, capsys) -> None:
    folder = trained_folder(tmp_path / "m", TISSUES, folds=(0, 2))
    wanted = describe(folder, name="brats", kind="nnunet", trained_on="1,251 patients")
    digest = hashlib.sha256((json.dumps(wanted, indent=1) + "\n").encode()).hexdigest()
    arguments = ("models", "add", "brats", "--kind", "nnunet", "--folder", str(folder))
    arguments += ("--trained-on", "1,251 patients")
    with pytest.raises(CommandError, match="pinned"):
        call_command(*arguments, "--pin", "0" * 64)
    assert not (folder / "model.json").exists()
    call_command(*arguments, "--pin", digest)
    call_command(*arguments)  # twice is once
    row = ModelVersion.objects.get()
    assert (row.status, row.demo_only, row.sha256) == ("adviser", False, digest)
    assert "No evaluation" in row.status_reason
    model = json.loads((folder / "model.json").read_text())
    assert model["folds"] == ["0", "2"]
    assert set(model["files"]) == {
        *("dataset.json", "plans.json", "fold_0/checkpoint_final.pth", "fold_2/checkpoint_final.pth")
    }
    call_command("models", "list")
    written = capsys.readouterr().out
    assert "no model card" in written
    entry = json.loads(written[written.index("{") : written.index("}") + 1])
    settings.ONCOFLOW_PANEL = panel_from(json.dumps([entry]))
    call_command("models", "verify")
    (folder / "fold_2" / "checkpoint_final.pth").write_bytes(b"altered")
    with pytest.raises(CommandError):
        call_command("models", "verify")


def test_add_refuses_pickles_foreign_evaluations_and_missing_folds(tmp_path: Path, capsys) -> None:
    folder = trained_folder(tmp_path / "m", TISSUES, extra=Code())
    with pytest.raises(WeightsMismatch, match=r"adopt"):
        describe(folder, name="m", kind="nnunet")
    assert "code ran" not in capsys.readouterr().out
    folder = trained_folder(tmp_path / "n", TISSUES)
    with pytest.raises(WeightsMissing, match="fold_3"):
        describe(folder, name="m", kind="nnunet", folds=(0, 3))
    (folder / "evaluation.json").write_text(json.dumps({"regions": {}}))
    with pytest.raises(WeightsMismatch, match="not made here"):
        describe(folder, name="m", kind="nnunet")
    with pytest.raises(WeightsMismatch, match="name"):
        describe(folder, name="../m", kind="nnunet")


def test_adopted_folds_can_be_added(tmp_path: Path, volumes: Volumes) -> None:
    from inference.training.nnunet import adopt

    folder = trained_folder(
        tmp_path / "m", REGIONS_LABELS, folds=(0, 1), extra={"ema": [np.float64(0.5)], "code": Code}
    )
    arguments = ["--from", str(folder), "--out", str(tmp_path / "out"), "--name", "own", "--trained-on", "312 cases"]
    assert adopt.main([*arguments, "--folds", "0,1"]) == 0
    expert = NnUNetExpert("own", tmp_path / "out")
    expert.predict(volumes)
    assert len(expert._predictor.list_of_parameters) == 2


def test_add_takes_a_hugging_face_folder_but_no_code(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "medgemma"
    folder.mkdir()
    save_file({"w": np.zeros(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["Gemma3ForConditionalGeneration"]}))
    found = describe(folder, name="medgemma-1.5", kind="vlm", options={"slices": 12})
    assert found["architecture"] == "Gemma3ForConditionalGeneration"
    assert found["slices"] == 12
    assert set(found["files"]) == {"config.json", "model.safetensors"}
    (folder / "modeling.py").write_text("import os")
    with pytest.raises(WeightsMismatch, match=r"modeling\.py"):
        describe(folder, name="m", kind="vlm")


# --- the panel's configuration ------------------------------------------------------------------------------------------


def test_the_panel_is_configured_without_code(tmp_path: Path) -> None:
    assert [one["name"] for one in panel_from(None)] == ["nnunet-plain", "nnunet-residual", "sam2-small"]
    entry = {"name": "a", "kind": "nnunet", "weights_dir": str(tmp_path), "device": "cuda:0", "sha256": "0" * 64}
    assert panel_from(json.dumps([entry])) == [entry]
    relative = panel_from(json.dumps([{"name": "a", "kind": "sam", "weights_dir": "x"}]))
    assert relative[0]["weights_dir"].endswith("weights/x")
    for bad in ("{", "{}", '[{"name": "a"}]', '[{"name":"a","kind":"b","weights_dir":"c","color":1}]'):
        with pytest.raises(ImproperlyConfigured):
            panel_from(bad)
    with pytest.raises(ImproperlyConfigured, match="twice"):
        panel_from(json.dumps([entry, entry]))


# --- pull ---------------------------------------------------------------------------------------------------------------


class Served:
    """A web server of this machine; ``files`` by path, ``asked`` what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path = self.path.split("?")[0]
                outer.asked.append(path)
                data = outer.files.get(path)
                self.send_response(200 if data is not None else 404)
                data = data or b""
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", "a" * 40)
                self.send_header("Content-Type", "application/json" if path.startswith("/api/") else "application/x")
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.stop()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def tarred(files: dict[str, bytes], link: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo("fold_0/link.pth")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
    return packed.getvalue()


FILES = {
    "model/dataset.json": b"{}",
    "model/fold_0/checkpoint_final.pth": b"weights",
    "model/evaluation.json": b"{}",
    "model/run.py": b"import os",
}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_fetched_verified_and_unpacked_without_code(served: Served, tmp_path: Path, pack) -> None:
    data = pack(FILES)
    served.files["/m"] = data
    out = tmp_path / "weights" / "m"
    with pytest.raises(UserVisibleError) as refused:
        pull(f"{served.address}/m", sha256="0" * 64, out=out)
    assert refused.value.code == "hash"
    assert list(out.parent.iterdir()) == []
    told: list[str] = []
    pull(f"{served.address}/m", sha256=hashlib.sha256(data).hexdigest(), out=out, tell=told.append)
    kept = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert kept == ["dataset.json", "fold_0/checkpoint_final.pth"]
    assert any("run.py" in line for line in told)
    assert [path.name for path in out.parent.iterdir()] == ["m"]
    with pytest.raises(UserVisibleError, match="already"):
        pull(f"{served.address}/m", sha256="0" * 64, out=out)


@pytest.mark.parametrize(
    "data",
    [
        zipped({"../evil.json": b"x"}),
        zipped({"/evil.json": b"x"}),
        tarred({"a.json": b"x"}, link="/etc/passwd"),
        tarred({"../../evil.json": b"x"}),
        b"no archive",
    ],
)
def test_a_hostile_archive_leaves_nothing(served: Served, tmp_path: Path, data: bytes) -> None:
    served.files["/m"] = data
    with pytest.raises(UserVisibleError) as refused:
        pull(f"{served.address}/m", sha256=hashlib.sha256(data).hexdigest(), out=tmp_path / "w" / "m")
    assert refused.value.code == "archive"
    assert [path.name for path in tmp_path.rglob("*")] == ["w"]


def test_nothing_is_asked_of_anybody_without_a_hash_or_over_plain_http(served: Served, tmp_path: Path) -> None:
    for source, sha256, code in (
        (f"{served.address}/m", "", "no-hash"),
        ("http://example.org/m", "0" * 64, "source"),
        ("ftp://example.org/m", "0" * 64, "source"),
        ("hf:nobody", "0" * 64, "source"),
    ):
        with pytest.raises(UserVisibleError) as refused:
            pull(source, sha256=sha256, out=tmp_path / "m")
        assert refused.value.code == code
    assert served.asked == []


def test_a_repository_is_fetched_at_its_revision(served: Served, tmp_path: Path, monkeypatch) -> None:
    """The hub's own client against a server of this machine that speaks the few calls it makes."""
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    files = {"config.json": b"{}", "model.safetensors": b"tensors", "code.py": b"import os", "model.json": b"{}"}
    listing = {"id": "o/m", "sha": "a" * 40, "siblings": [{"rfilename": name} for name in files]}
    tree = [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files.items()]
    served.files["/api/models/o/m/revision/v1"] = json.dumps(listing).encode()
    served.files[f"/api/models/o/m/tree/{'a' * 40}"] = json.dumps(tree).encode()
    served.files["/api/models/o/m/tree/v1"] = json.dumps(tree).encode()
    for name, data in files.items():
        served.files[f"/o/m/resolve/{'a' * 40}/{name}"] = data
    expected = tmp_path / "expected"
    expected.mkdir()
    for name in ("config.json", "model.safetensors"):
        (expected / name).write_bytes(files[name])
    out = tmp_path / "w" / "m"
    with pytest.raises(UserVisibleError) as refused:
        pull("hf:o/m@v1", sha256="0" * 64, out=out)
    assert refused.value.code == "hash"
    pull("hf:o/m@v1", sha256=tree_digest(expected), out=out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert sha256_of(out / "model.safetensors") == hashlib.sha256(b"tensors").hexdigest()
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is not False or "HF_HUB_OFFLINE" not in __import__("os").environ
