"""Weights folders of tiny random SAM networks, built offline from small configurations and saved as the libraries save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from inference.experts.weights import sha256_of

SIDE = 64


def _write(folder: Path, **more: Any) -> Path:
    files = {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "model.json"
    }
    described = {"name": folder.name, "version": "1", "kind": "sam", "architecture": "tiny", "files": files} | more
    (folder / "model.json").write_text(json.dumps(described))
    return folder


def _prompt(kind: Any) -> Any:
    return kind(hidden_size=128, image_size=SIDE, patch_size=16, mask_input_channels=4)


def _decoder(kind: Any, hidden: int = 128) -> Any:
    return kind(hidden_size=hidden, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=32)


def sam2(folder: Path, *, video: bool = False, **more: Any) -> Path:
    """SAM 2 as Sam2VideoModel saves it where `video`, else as Sam2Model does."""
    torch.manual_seed(0)
    backbone = tf.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 4, 4],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[3],
    )
    sizes = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]
    vision = tf.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=sizes,
        fpn_hidden_size=128,
    )
    if video:
        config = tf.Sam2VideoConfig(
            vision_config=vision,
            prompt_encoder_config=_prompt(tf.Sam2VideoPromptEncoderConfig),
            mask_decoder_config=_decoder(tf.Sam2VideoMaskDecoderConfig),
            image_size=SIDE,
            memory_attention_hidden_size=128,
            memory_attention_num_layers=1,
            memory_attention_num_attention_heads=1,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[4, 4],
            memory_encoder_hidden_size=128,
            memory_encoder_output_channels=64,
            mask_downsampler_embed_dim=128,
            memory_fuser_num_layers=1,
            memory_fuser_embed_dim=128,
            memory_fuser_intermediate_dim=32,
        )
        tf.Sam2VideoModel(config).save_pretrained(folder)
        return _write(folder, library="transformers", propagation="video", **more)
    config = tf.Sam2Config(
        vision_config=vision,
        prompt_encoder_config=_prompt(tf.Sam2PromptEncoderConfig),
        mask_decoder_config=_decoder(tf.Sam2MaskDecoderConfig),
    )
    tf.Sam2Model(config).save_pretrained(folder)
    return _write(folder, library="transformers", **more)


def sam3(folder: Path, **more: Any) -> Path:
    """SAM 3: Sam3Model and its tokenizer in `concept`, Sam3TrackerModel in `tracker`."""
    torch.manual_seed(0)
    size = 56
    sizes = [[16, 16], [8, 8], [4, 4]]

    def vision() -> Any:
        backbone = tf.Sam3ViTConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=size,
            pretrain_image_size=size,
            patch_size=14,
            window_size=2,
            global_attn_indexes=[1],
        )
        return tf.Sam3VisionConfig(backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=sizes)

    small = {"hidden_size": 32, "num_attention_heads": 2}
    config = tf.Sam3Config(
        vision_config=vision(),
        text_config=tf.CLIPTextConfig(
            vocab_size=10,
            hidden_size=32,
            intermediate_size=32,
            projection_dim=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        geometry_encoder_config=tf.Sam3GeometryEncoderConfig(num_layers=1, intermediate_size=32, **small),
        detr_encoder_config=tf.Sam3DETREncoderConfig(num_layers=1, intermediate_size=32, **small),
        detr_decoder_config=tf.Sam3DETRDecoderConfig(num_layers=1, num_queries=3, intermediate_size=32, **small),
        mask_decoder_config=tf.Sam3MaskDecoderConfig(num_upsampling_stages=2, **small),
    )
    tf.Sam3Model(config).save_pretrained(folder / "concept")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "[UNK]": 3, "brain": 4, "tumor": 5, "enhancing": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    ).save_pretrained(folder / "concept")
    prompt = tf.Sam3TrackerPromptEncoderConfig(hidden_size=32, image_size=size, patch_size=14, mask_input_channels=4)
    tracker = tf.Sam3TrackerConfig(
        vision_config=vision(),
        prompt_encoder_config=prompt,
        mask_decoder_config=_decoder(tf.Sam3TrackerMaskDecoderConfig, hidden=32),
    )
    tf.Sam3TrackerModel(tracker).save_pretrained(folder / "tracker")
    return _write(folder, library="transformers", **more)


def repin(folder: Path) -> None:
    """Pin the folder's files anew, as somebody would who changed one and its SHA-256."""
    described = json.loads((folder / "model.json").read_text())
    described["files"] = {name: sha256_of(folder / name) for name in described["files"] if (folder / name).is_file()}
    (folder / "model.json").write_text(json.dumps(described))
