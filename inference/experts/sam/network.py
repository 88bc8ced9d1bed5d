"""Build the SAM 2 network of a weights folder, small or official, through sam2's own build_sam2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BASE_CONFIG", "SMALL_OVERRIDES", "build", "frames_from_arrays", "load_state", "predictor_for"]

BASE_CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"

SMALL_OVERRIDES: tuple[str, ...] = (
    "model.image_size=256",
    "model.image_encoder.trunk.embed_dim=32",
    "model.image_encoder.trunk.stages=[1,2,4,2]",
    "model.image_encoder.trunk.global_att_blocks=[4,6]",
    "++model.image_encoder.trunk.window_spec=[8,4,8,8]",
    "model.image_encoder.neck.d_model=128",
    "model.image_encoder.neck.position_encoding.num_pos_feats=128",
    "model.image_encoder.neck.backbone_channel_list=[256,128,64,32]",
    "model.memory_attention.d_model=128",
    "model.memory_attention.num_layers=1",
    "model.memory_attention.layer.d_model=128",
    "model.memory_attention.layer.dim_feedforward=256",
    "model.memory_attention.layer.self_attention.embedding_dim=128",
    "model.memory_attention.layer.self_attention.feat_sizes=[16,16]",
    "model.memory_attention.layer.cross_attention.embedding_dim=128",
    "model.memory_attention.layer.cross_attention.feat_sizes=[16,16]",
    "model.memory_encoder.fuser.layer.dim=128",
    "++model.memory_encoder.in_dim=128",
    "++model.memory_encoder.mask_downsampler.embed_dim=128",
)
"""A network of a few million parameters for 256-pixel images: embed 32, d_model 128."""


def build(
    overrides: list[str] | None = None, config: str = BASE_CONFIG, device: str = "cpu", *, video: bool = False
) -> Any:
    """SAM2Base in evaluation mode with random weights; SAM2VideoPredictor, which is one too, where `video` is asked for."""
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    make = build_sam2_video_predictor if video else build_sam2
    return make(config, None, device=device, hydra_overrides_extra=list(overrides or []), apply_postprocessing=False)


@contextlib.contextmanager
def frames_from_arrays() -> Iterator[None]:
    """Let SAM2VideoPredictor.init_state take an array (n, 3, side, side) in 0..1 where it asks for a film.

    The package's own loader reads MP4 files and folders of JPEG only: slices would lose their precision on the way.
    """
    import sam2.sam2_video_predictor as module
    import torch

    before = module.load_video_frames

    def load(
        video_path: Any,
        image_size: int,
        offload_video_to_cpu: bool,
        img_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        img_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        async_loading_frames: bool = False,
        compute_device: Any = "cpu",
    ) -> tuple[Any, int, int]:
        frames = torch.from_numpy(np.ascontiguousarray(video_path, np.float32))
        height, width = frames.shape[2:]
        frames = torch.nn.functional.interpolate(frames, (image_size, image_size), mode="bilinear", antialias=True)
        frames = (frames - torch.tensor(img_mean)[:, None, None]) / torch.tensor(img_std)[:, None, None]
        return frames if offload_video_to_cpu else frames.to(compute_device), height, width

    module.load_video_frames = load
    try:
        yield
    finally:
        module.load_video_frames = before


def load_state(model: Any, path: Path) -> None:
    """Load plain tensors (float16 or float32) into the model; anything but tensors is refused by weights_only."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state["model"].items()})


def predictor_for(model: Any) -> Any:
    """SAM2ImagePredictor whose feature sizes fit the model's image size (the package assumes 1024)."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // d, model.image_size // d) for d in (4, 8, 16)]
    return predictor
