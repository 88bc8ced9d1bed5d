"""Build the SAM 2 network of a weights folder, small or official, through sam2's own build_sam2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["BASE_CONFIG", "SMALL_OVERRIDES", "build", "load_state", "predictor_for"]

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


def build(overrides: list[str] | None = None, config: str = BASE_CONFIG, device: str = "cpu") -> Any:
    """SAM2Base in evaluation mode with random weights."""
    from sam2.build_sam import build_sam2

    return build_sam2(
        config, None, device=device, hydra_overrides_extra=list(overrides or []), apply_postprocessing=False
    )


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
