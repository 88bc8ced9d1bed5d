"""A small Gemma 3 with vision: its own tokenizer, processor and network, of the same classes as the large ones.

Everything is saved with `save_pretrained`, so that AutoProcessor and AutoModelForImageTextToText load it like MedGemma.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

__all__ = ["IMAGE_SIDE", "IMAGE_TOKENS", "PATCHES", "PatchHead", "build", "load", "make_processor", "save"]

IMAGE_SIDE = 192
PATCH = 12
PATCHES = IMAGE_SIDE // PATCH
IMAGE_TOKENS = 64
VOCABULARY = 640
WIDTH = 192
SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<end_of_turn>",
    "unk_token": "<unk>",
}
IMAGE = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') "
    "+ '\n' }}{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def make_processor(texts: Iterator[str]) -> Any:
    """A processor whose byte-level BPE tokenizer is trained on `texts`, whole numbers kept as single tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    split = pre_tokenizers.Split(Regex(r"\d+|[^\d\s]+\s?|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [*SPECIAL.values(), *IMAGE.values(), "<start_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", extra_special_tokens=IMAGE, **SPECIAL
    )
    images = Gemma3ImageProcessor(
        size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Gemma3Processor(images, fast, chat_template=TEMPLATE, image_seq_length=IMAGE_TOKENS)


def build(processor: Any) -> Any:
    """The network, freshly initialised, for the tokenizer of `processor`."""
    tokenizer = processor.tokenizer
    text = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=1024,
        sliding_window=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=tokenizer.convert_tokens_to_ids(IMAGE["boi_token"]),
        eoi_token_index=tokenizer.convert_tokens_to_ids(IMAGE["eoi_token"]),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE["image_token"]),
        tie_word_embeddings=True,
    )
    model = Gemma3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


class PatchHead(nn.Module):
    """Which share of each patch is WT, TC, ET: keeps the vision tower busy with where things are. Thrown away at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(WIDTH, 3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, patches, width) -> logits (n, patches, 3)."""
        found: torch.Tensor = self.line(hidden)
        return found


def save(folder: Path, model: Any, processor: Any) -> list[str]:
    """Write both, weights in float16; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.name not in KEPT_APART)


KEPT_APART = frozenset({"model.json", "evaluation.json", "MODEL_CARD.md"})


def load(folder: Path) -> tuple[Any, Any]:
    """The float32 network and processor that `save` wrote. Raises ValueError for a model of another size."""
    model: Any = Gemma3ForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    if model.config.vision_config.hidden_size != WIDTH:
        raise ValueError(f"{folder.name}: only models that this training made can be fine-tuned by it")
    return model, Gemma3Processor.from_pretrained(folder, local_files_only=True)
