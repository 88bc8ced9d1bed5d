"""Where a vision-language model runs: in this process through transformers, or behind a server that speaks OpenAI's protocol.

Both take pictures and a prompt and give text as tokens with their probabilities. Nothing is fetched: a folder must hold
everything, with weights as safetensors, and no code of a model's repository is run.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.experts.common.out_of_memory import MemoryFallback
from inference.experts.errors import ExpertFailed, WeightsMismatch, WeightsMissing
from inference.experts.vlm.answer import Piece

__all__ = ["OpenAIBackend", "Pictures", "TransformersBackend", "VlmBackend"]

Pictures = Sequence[NDArray[np.uint8]]
"""The pictures of one question, RGB (height, width, 3)."""
MAXIMUM_TOKENS = 400


class VlmBackend(Protocol):
    """Answers questions about pictures, one text each."""

    @property
    def device(self) -> str:
        """Where it runs, or "server"."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was given up since `begin`."""
        ...

    def begin(self) -> None:
        """Start a study."""
        ...

    def ask(self, questions: Sequence[Pictures], prompt: str) -> list[tuple[Piece, ...]]:
        """The answers, in the order of the questions. Raises ExpertFailed."""
        ...


class TransformersBackend:
    """A model folder as `save_pretrained` writes it, through AutoProcessor and AutoModelForImageTextToText.

    :param quantise: "4bit" loads through bitsandbytes where it is installed and the device is CUDA, else it is refused.
    :raises WeightsMissing: :raises WeightsMismatch: the folder cannot be loaded as such a model.
    """

    def __init__(
        self, folder: Path, *, device: str = "cpu", threads: int = 1, quantise: str = "", batch_size: int = 8
    ) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForImageTextToText, AutoProcessor

        torch.set_num_threads(threads)
        self.threads = threads
        self._quantised = bool(quantise)
        self.memory = MemoryFallback(device, batch_size, self._move)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
        # float32 where a CPU would emulate anything smaller; bfloat16 is what Gemma was trained in.
        options["dtype"] = torch.float32 if device == "cpu" else torch.bfloat16
        if quantise:
            options["quantization_config"] = _four_bit(quantise, device)
            options["device_map"] = device
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, **options)
        except (OSError, FileNotFoundError) as error:
            raise WeightsMissing(f"{folder.name}: a file of the model is missing") from error
        except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise WeightsMismatch(f"{folder.name}: the files do not make a model ({type(error).__name__})") from error
        self._model = model.eval() if quantise else model.to(device).eval()

    def ask(self, questions: Sequence[Pictures], prompt: str) -> list[tuple[Piece, ...]]:
        """Greedy answers; a batch that does not fit into memory is halved, and one that still does not moves to the CPU."""
        answers: list[tuple[Piece, ...]] = []
        while len(answers) < len(questions):
            left = questions[len(answers) :]
            answers += self.memory.run(lambda n, left=left: self._generate(left[:n], prompt))  # type: ignore[misc]
        return answers

    @property
    def device(self) -> str:
        """Where the model is now."""
        return self.memory.device

    @property
    def notes(self) -> tuple[str, ...]:
        """What was given up for want of memory."""
        return tuple(self.memory.notes)

    def begin(self) -> None:
        """Start a study with the configured batch, on the configured device."""
        self.memory.begin()

    def _move(self, device: str) -> None:
        import torch

        if self._quantised:
            raise ExpertFailed("memory ran out, and a model in 4 bits cannot move to the CPU")
        self._model = self._model.to(device, torch.float32 if device == "cpu" else torch.bfloat16)

    def _generate(self, questions: Sequence[Pictures], prompt: str) -> list[tuple[Piece, ...]]:
        import torch

        torch.set_num_threads(self.threads)
        messages = [
            [
                {
                    "role": "user",
                    "content": [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}],
                }
            ]
            for pictures in questions
        ]
        texts = [
            self._processor.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in messages
        ]
        inputs = self._processor(
            text=texts, images=[list(pictures) for pictures in questions], return_tensors="pt", padding=True
        ).to(self.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        with torch.inference_mode():
            made = self._model.generate(
                **inputs,
                max_new_tokens=MAXIMUM_TOKENS,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
            scores = self._model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)
        tokenizer = self._processor.tokenizer
        begin = inputs["input_ids"].shape[1]
        end = _ends(self._model.generation_config.eos_token_id, tokenizer)
        return [
            _pieces(tokenizer, row[begin:].tolist(), score.float().exp().tolist(), end)
            for row, score in zip(made.sequences, scores, strict=True)
        ]


class OpenAIBackend:
    """A server with OpenAI's chat protocol (vLLM, for one) at `url`. Sends de-identified pictures and the cleaned prompt.

    Without log-probabilities in its answer every token counts as certain as the server's own 0.5.
    """

    def __init__(self, url: str, model: str, *, key: str = "", timeout_s: float = 300.0) -> None:
        from openai import OpenAI

        self.device = "server"
        self.notes: tuple[str, ...] = ()
        self.model = model
        self._client = OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=1)

    def begin(self) -> None:
        """Nothing to do: the server has the memory."""

    def ask(self, questions: Sequence[Pictures], prompt: str) -> list[tuple[Piece, ...]]:
        """One request a question; temperature 0 and a fixed seed, as far as the server keeps to them."""
        import openai

        try:
            return [self._one(pictures, prompt) for pictures in questions]
        except openai.OpenAIError as error:
            raise ExpertFailed(f"the model's server did not answer ({type(error).__name__})") from None

    def _one(self, pictures: Pictures, prompt: str) -> tuple[Piece, ...]:
        content: list[Any] = [{"type": "image_url", "image_url": {"url": _data_url(one)}} for one in pictures]
        content.append({"type": "text", "text": prompt})
        made = self._client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            max_tokens=MAXIMUM_TOKENS,
            temperature=0,
            seed=0,
            logprobs=True,
        )
        choice = made.choices[0] if made.choices else None
        if choice is None or not choice.message.content:
            raise ExpertFailed("the model's server gave an empty answer")
        told = choice.logprobs.content if choice.logprobs is not None else None
        if told and "".join(one.token for one in told) == choice.message.content:
            return tuple((one.token, math.exp(min(0.0, one.logprob))) for one in told)
        return ((choice.message.content, 0.5),)


def _four_bit(quantise: str, device: str) -> Any:
    if quantise != "4bit":
        raise WeightsMismatch(f"unknown quantisation {quantise!r}: only 4bit")
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None or not device.startswith("cuda"):
        raise WeightsMismatch("4-bit loading needs a CUDA device and the package bitsandbytes")
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)


def _ends(configured: Any, tokenizer: Any) -> set[int]:
    ends = configured if isinstance(configured, list) else [configured]
    return {int(one) for one in (*ends, tokenizer.eos_token_id, tokenizer.pad_token_id) if one is not None}


def _pieces(tokenizer: Any, tokens: list[int], probabilities: list[float], end: set[int]) -> tuple[Piece, ...]:
    """Tokens as text. Decoded as growing prefixes: a token alone may be a part of a character or lose its space."""
    pieces: list[Piece] = []
    before, kept = "", []
    for token, probability in zip(tokens, probabilities, strict=True):
        if token in end:
            break
        kept.append(token)
        text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        pieces.append((text[len(before) :], float(probability)))
        before = text
    return tuple(pieces)


def _data_url(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
