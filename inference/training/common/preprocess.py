"""Preprocessing by nnU-Net's own DefaultPreprocessor, kept in RAM and in a cache folder.

A full nnU-Net experiment reads blosc files through several worker processes; on two cores those compete with the
training itself. 260 cases at 2 mm fit into 1.3 GB as float16, so they simply stay in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_n_proc_DA", "0")

import numpy as np
from numpy.typing import NDArray

from inference.experts.documents import NnUNetDatasetDocument
from inference.training.common.dataset import RawDataset
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["PreparedCase", "fingerprint", "load_prepared", "make_plans"]

PREPARATION = "clip-1"  # part of the cache key: raise it when clip or preprocessing changes


@dataclass(frozen=True)
class PreparedCase:
    """data float16 (4, z, y, x), z-scored in the brain, 0 outside, cropped to it; labels int8 (z, y, x) 0..3.

    foreground: (n, 3) voxel indices per region in the order WT, TC, ET (n may be 0, at most 4000 sampled).
    """

    name: str
    data: NDArray[np.float16]
    labels: NDArray[np.int8]
    foreground: tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]

    @property
    def empty(self) -> bool:
        """True when the case has no tumour."""
        return len(self.foreground[0]) == 0


class Architecture(NamedTuple):
    """A network of nnU-Net. :param stages: convolutions or blocks a stage, by the argument of the network's class."""

    network_class_name: str
    features_per_stage: list[int]
    stages: JsonDict


ARCHITECTURES = {
    "plain": Architecture(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        [16, 32, 64, 128, 192],
        {"n_conv_per_stage": [1, 2, 2, 2, 2], "n_conv_per_stage_decoder": [1, 1, 1, 1]},
    ),
    "residual": Architecture(
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        [16, 32, 64, 96, 128],
        {"n_blocks_per_stage": [1, 1, 2, 2, 2], "n_conv_per_stage_decoder": [1, 1, 1, 1]},
    ),
}


class Fingerprint(TypedDict):
    """Median spacing (mm) and shape after cropping, z, y, x; intensities of the foreground by channel."""

    spacing: list[float]
    shape: list[int]
    intensities: dict[str, dict[str, float]]


def fingerprint(dataset: RawDataset, limit: int = 40) -> Fingerprint:
    """What nnU-Net's planner wants to know: spacings, shapes after cropping, intensities of the foreground."""
    spacings, shapes = [], []
    values: list[list[NDArray[np.float32]]] = [[] for _ in range(4)]
    rng = np.random.default_rng(1234)
    for name in dataset.names("train")[:limit]:
        case = dataset.load("train", name)
        index = np.argwhere(case.brain_mask)
        spacings.append(case.spacing)
        shapes.append((index.max(0) - index.min(0) + 1).tolist())
        tumour = np.argwhere(case.labels > 0)
        if len(tumour):
            picked = tuple(tumour[rng.integers(0, len(tumour), 1000)].T)
            for c in range(4):
                values[c].append(case.images[c][picked])
    intensities: dict[str, dict[str, float]] = {}
    for c in range(4):
        v = np.concatenate(values[c]) if values[c] else np.zeros(1, np.float32)
        intensities[str(c)] = {
            "mean": float(v.mean()),
            "median": float(np.median(v)),
            "std": float(v.std()),
            "min": float(v.min()),
            "max": float(v.max()),
            "percentile_99_5": float(np.percentile(v, 99.5)),
            "percentile_00_5": float(np.percentile(v, 0.5)),
        }
    return {
        "spacing": [float(s) for s in np.median(np.asarray(spacings), axis=0)],
        "shape": [round(float(s)) for s in np.median(np.asarray(shapes), axis=0)],
        "intensities": intensities,
    }


def make_plans(
    dataset: RawDataset,
    architecture: str,
    spacing: tuple[float, float, float],
    patch: tuple[int, int, int],
    batch_size: int,
) -> JsonDict:
    """plans.json as nnU-Net's planner writes it, for one small 3d_fullres configuration."""
    found = fingerprint(dataset)
    network = ARCHITECTURES[architecture]
    stages = len(network.features_per_stage)
    arch_kwargs: JsonDict = {
        "n_stages": stages,
        "features_per_stage": [*network.features_per_stage],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3] for _ in range(stages)],
        "strides": [[2, 2, 2] if stage else [1, 1, 1] for stage in range(stages)],
        **network.stages,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    resample: JsonDict = {"is_seg": False, "num_threads": 2}
    shape = [max(1, round(n * a / b)) for n, a, b in zip(found["shape"], found["spacing"], spacing, strict=True)]
    configuration: JsonDict = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [*shape],
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * 4,
        "use_mask_for_norm": [True] * 4,
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_seg": "resample_torch_fornnunet",
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg_kwargs": {"is_seg": True, "num_threads": 2},
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": resample,
        "architecture": {
            "network_class_name": network.network_class_name,
            "arch_kwargs": arch_kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    return {
        "dataset_name": str(dataset.json.get("name", dataset.folder.name)),
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [*found["spacing"]],
        "original_median_shape_after_transp": [*found["shape"]],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {name: {**one} for name, one in found["intensities"].items()},
    }


def nnunet_dataset_json(dataset: RawDataset) -> NnUNetDatasetDocument:
    """dataset.json with the regions in the order of the network's channels: WT, TC, ET."""
    data = dataset.json.copy()
    data["labels"] = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    data["regions_class_order"] = [2, 1, 3]
    return data


def load_prepared(
    dataset: RawDataset, plans: JsonDict, split: str = "train", cache: Path | None = None, last: int | None = None
) -> list[PreparedCase]:
    """Cases of a split, preprocessed by nnU-Net's DefaultPreprocessor; from `cache` where it has been done.

    `last` takes only so many from the end of the list.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    preprocessor = DefaultPreprocessor(verbose=False)
    labels_json = nnunet_dataset_json(dataset)
    key = hashlib.sha256(
        json.dumps([PREPARATION, str(dataset.folder.resolve()), configuration.spacing]).encode()
    ).hexdigest()[:12]
    prepared = []
    for name in dataset.names(split)[-last if last else 0 :]:
        stored = cache / f"{key}-{split}-{name}.npz" if cache else None
        if stored is not None and stored.is_file():
            with np.load(stored) as archive:
                data, labels = archive["data"], archive["labels"]
        else:
            case = dataset.load(split, name)
            properties = {"spacing": list(case.spacing)}
            array, seg, _ = preprocessor.run_case_npy(
                case.clipped(), case.labels[None].astype(np.int8), properties, manager, configuration, labels_json
            )
            data, labels = np.asarray(array, np.float16), np.maximum(np.asarray(seg)[0], 0).astype(np.int8)
            if stored is not None:
                stored.parent.mkdir(parents=True, exist_ok=True)
                partial = stored.with_suffix(f".{os.getpid()}.npz")
                np.savez(partial, data=data, labels=labels)
                partial.replace(stored)
        prepared.append(PreparedCase(name, data, labels, _foreground(labels)))
    return prepared


def _foreground(labels: NDArray[np.int8]) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    rng = np.random.default_rng(7)
    found = []
    for values in ((1, 2, 3), (1, 3), (3,)):
        index = np.argwhere(np.isin(labels, values)).astype(np.int16)
        if len(index) > 4000:
            index = index[rng.choice(len(index), 4000, replace=False)]
        found.append(index)
    return found[0], found[1], found[2]
