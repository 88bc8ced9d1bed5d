"""SAM 2 and SAM 3 through transformers, from a folder as save_pretrained writes it. Local files only, safetensors only.

SAM 2 (config.json: sam2 or sam2_video): Sam2Model answers prompts, Sam2VideoModel follows where model.json says that the
weights were trained for it. SAM 3 (sam3, sam3_video): Sam3Model finds what words name, Sam3TrackerModel answers prompts; both
read one folder, as the published weights have it, or `concept` and `tracker` below it. Carion et al., SAM 3, arXiv 2511.16719.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.brats.regions import REGIONS
from inference.experts.common.out_of_memory import mixed_precision
from inference.experts.common.slices import Box
from inference.experts.errors import WeightsMismatch, WeightsMissing
from inference.experts.sam.contract import Click, Embedding, sigmoid
from oncoflow_site.foundation.schema import JsonDict

__all__ = ["HuggingFaceSam", "load_huggingface"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DEFAULT_CONCEPTS = {"WT": "brain tumor"}
LEAST_SCORE = 0.3
"""From which score an instance counts that words found: the default of transformers' own post-processing."""


def load_huggingface(folder: Path, model: Mapping[str, Any], device: str) -> HuggingFaceSam:
    """The networks of a verified weights folder. Raises WeightsMissing, WeightsMismatch."""
    import transformers

    tracker = folder / "tracker" if (folder / "tracker").is_dir() else folder
    kind = str(_config(tracker).get("model_type", ""))
    video = None
    finder = tokenizer = None
    concepts: Mapping[str, str] = {}
    if kind in ("sam2", "sam2_video"):
        pictures = _load(transformers.Sam2Model, tracker, model)
        if model.get("propagation") == "video":
            video = _load(transformers.Sam2VideoModel, tracker, model)
            video.vision_encoder = pictures.vision_encoder  # the same weights once in memory
    elif kind in ("sam3", "sam3_video", "sam3_tracker"):
        concept = folder / "concept" if (folder / "concept").is_dir() else folder
        pictures = _load(transformers.Sam3TrackerModel, tracker, model)
        finder = _load(transformers.Sam3Model, concept, model)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(concept, local_files_only=True)
        except Exception as error:  # whatever the tokenizer's files hold
            raise WeightsMissing(f"{folder.name}: the tokenizer is missing or unreadable") from error
        concepts = model.get("concepts") or DEFAULT_CONCEPTS
        if not set(concepts) <= set(REGIONS):
            raise WeightsMismatch(f"{folder.name}: model.json names words for unknown regions")
    else:
        raise WeightsMismatch(f"{folder.name}: config.json is of no SAM 2 or SAM 3 ({kind or 'no model_type'})")
    normal = IMAGENET if kind.startswith("sam2") else HALVES
    return HuggingFaceSam(pictures, video, finder, tokenizer, dict(concepts), normal, device)


def _config(folder: Path) -> JsonDict:
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsMissing(f"{folder.name}: config.json is missing or unreadable") from error
    return found if isinstance(found, dict) else {}


def _load(kind: Any, folder: Path, model: Mapping[str, Any]) -> Any:
    """A network with all of its weights: a checkpoint that fills it only in part is refused."""
    names = [*folder.glob("*.safetensors"), folder / "config.json"]
    pinned = {Path(name).name for name in model["files"]}
    if len(names) < 2:
        raise WeightsMissing(f"{folder.name}: there is no .safetensors file")
    if loose := sorted(path.name for path in names if path.name not in pinned):
        raise WeightsMismatch(f"{folder.name}: model.json pins no SHA-256 of {', '.join(loose)}")
    try:
        network, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise WeightsMissing(f"{folder.name}: a file of the network is missing") from error
    except Exception as error:  # safetensors, configuration and shapes raise many types
        raise WeightsMismatch(f"{folder.name}: the weights do not fit {kind.__name__}") from error
    if report["missing_keys"] or report.get("mismatched_keys"):
        raise WeightsMismatch(f"{folder.name}: the weights fill {kind.__name__} only in part")
    return network.eval()


class HuggingFaceSam:
    """See Backend. video: Sam2VideoModel or None; finder: Sam3Model or None with its tokenizer."""

    def __init__(
        self,
        pictures: Any,
        video: Any,
        finder: Any,
        tokenizer: Any,
        concepts: Mapping[str, str],
        normal: tuple[tuple[float, ...], tuple[float, ...]],
        device: str,
    ) -> None:
        self._pictures, self._video, self._finder, self._tokenizer = pictures, video, finder, tokenizer
        self.concepts = concepts if finder is not None else {}
        self.propagation = "video" if video is not None else "boxes"
        self._normal = normal
        self.object_score = float("nan")
        self._device = device
        self._size = int(pictures.prompt_encoder.input_image_size)
        self.move(device)

    def embed(self, pictures: Sequence[NDArray[np.float32]]) -> list[Embedding]:
        """See Backend."""
        import torch

        with torch.inference_mode(), mixed_precision(self._device):
            levels = self._pictures.get_image_embeddings(self._pixels(pictures, self._size))
        found = []
        for index, picture in enumerate(pictures):
            own = [level[index : index + 1].clone() for level in levels]
            found.append(Embedding(own, picture.shape[-1], sum(t.numel() * t.element_size() for t in own)))
        return found

    def decode(
        self, embedding: Embedding, box: Box | None, clicks: Sequence[Click], multimask: bool
    ) -> NDArray[np.float32]:
        """See Backend."""
        import torch

        points, labels = self._points(box, clicks, embedding.side)
        with torch.inference_mode(), mixed_precision(self._device):
            told = self._pictures(
                image_embeddings=list(embedding.features),
                input_points=points,
                input_labels=labels,
                multimask_output=multimask,
            )
            score = getattr(told, "object_score_logits", None)
            self.object_score = float("nan") if score is None else float(score.flatten()[0])
            found = told.pred_masks[0, 0]
            return sigmoid(_resized(found[None], embedding.side)[0].float().cpu().numpy())

    def track(
        self, pictures: NDArray[np.float32], prompts: Mapping[int, tuple[Box | None, Sequence[Click]]]
    ) -> NDArray[np.float32]:
        """See Backend."""
        import torch
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        side = pictures.shape[-1]
        out = np.zeros((len(pictures), side, side), np.float32)
        with torch.inference_mode():
            frames = self._pixels(list(pictures), self._size)
            session = Sam2VideoInferenceSession(
                frames, side, side, self._device, self._device, self._device, torch.float32
            )
            which = session.obj_id_to_idx(1)
            for index, (box, clicks) in prompts.items():
                points, labels = self._points(box, clicks, side)
                session.add_point_inputs(which, index, {"point_coords": points, "point_labels": labels})
                session.obj_with_new_inputs = [1]
                self._video(session, frame_idx=index)
            for reverse, start in ((False, min(prompts)), (True, max(prompts))):
                for told in self._video.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse):
                    logits = _resized(told.pred_masks.reshape(1, 1, *told.pred_masks.shape[-2:]), side)[0, 0]
                    out[told.frame_idx] = np.maximum(out[told.frame_idx], sigmoid(logits.float().cpu().numpy()))
        return out

    def find(self, picture: NDArray[np.float32], words: str) -> NDArray[np.float32]:
        """See Backend: the surest mask at each pixel among the instances found."""
        import torch

        size = self._finder.config.vision_config.image_size
        size = int(size if isinstance(size, int) else size[0])
        length = int(self._finder.config.text_config.max_position_embeddings)
        told = self._tokenizer(words, return_tensors="pt", padding="max_length", truncation=True, max_length=length)
        with torch.inference_mode(), mixed_precision(self._device):
            found = self._finder(
                pixel_values=self._pixels([picture], size),
                input_ids=told["input_ids"].to(self._device),
                attention_mask=told["attention_mask"].to(self._device),
            )
            scores = (found.pred_logits[0].sigmoid() * found.presence_logits[0].sigmoid()).flatten()
            kept = found.pred_masks[0][scores >= LEAST_SCORE]
            if not len(kept):
                return np.zeros(picture.shape[1:], np.float32)
            surest = _resized(kept[None], picture.shape[-1])[0].amax(0)
            return sigmoid(surest.float().cpu().numpy())

    def move(self, device: str) -> None:
        """See Backend."""
        self._device = device
        for network in (self._pictures, self._video, self._finder):
            if network is not None:
                network.to(device)

    def _pixels(self, pictures: Sequence[NDArray[np.float32]], size: int) -> Any:
        """(n, 3, size, size), normalised as the network's own image processor does."""
        import torch

        mean, std = (torch.tensor(values, device=self._device)[:, None, None] for values in self._normal)
        scaled = [
            torch.nn.functional.interpolate(
                torch.from_numpy(np.ascontiguousarray(p))[None].to(self._device),
                (size, size),
                mode="bilinear",
                antialias=True,
            )
            for p in pictures
        ]
        return (torch.cat(scaled) - mean) / std

    def _points(self, box: Box | None, clicks: Sequence[Click], side: int) -> tuple[Any, Any]:
        """A box's corners as points with labels 2 and 3, then the clicks, in pixels of the network's picture."""
        import torch

        places = [[box[0], box[1]], [box[2], box[3]]] if box is not None else []
        kinds = [2, 3] if box is not None else []
        places += [[x, y] for x, y, _ in clicks]
        kinds += [int(positive) for *_, positive in clicks]
        coordinates = torch.tensor(places, dtype=torch.float32, device=self._device) * (self._size / side)
        return coordinates[None, None], torch.tensor(kinds, dtype=torch.int32, device=self._device)[None, None]


def _resized(logits: Any, side: int) -> Any:
    import torch

    return torch.nn.functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
