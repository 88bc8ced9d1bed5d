"""SAM 2 through Meta's own package: SAM2ImagePredictor for pictures, SAM2VideoPredictor for slices as frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.experts.common.out_of_memory import mixed_precision
from inference.experts.common.slices import Box
from inference.experts.errors import WeightsMismatch, WeightsMissing
from inference.experts.sam import network
from inference.experts.sam.contract import Click, Embedding, sigmoid

__all__ = ["CHECKPOINT", "Sam2Package"]

CHECKPOINT = "sam2.pt"


class Sam2Package:
    """A network built with build_sam2, or build_sam2_video_predictor where model.json says `"propagation": "video"`."""

    concepts: Mapping[str, str] = {}

    def __init__(self, folder: Path, model: Mapping[str, Any], device: str) -> None:
        path = folder / CHECKPOINT
        if not path.is_file():
            raise WeightsMissing(f"{folder.name}: {CHECKPOINT} is missing")
        self.propagation = "video" if model.get("propagation") == "video" else "boxes"
        overrides, config = list(model.get("hydra_overrides", [])), str(model.get("config", network.BASE_CONFIG))
        built = network.build(overrides, config, device, video=self.propagation == "video")
        try:
            network.load_state(built, path)
        except Exception as error:  # the unpickler and load_state_dict raise many types
            raise WeightsMismatch(f"{folder.name}: {CHECKPOINT} does not fit the network") from error
        self._network = built
        self._device, self._precision = device, str(model.get("precision", ""))
        self._predictor = network.predictor_for(built)
        self.object_score = float("nan")
        # SAM2ImagePredictor drops it.
        built.sam_mask_decoder.register_forward_hook(self._note_score)

    def _note_score(self, module: Any, given: Any, answer: Any) -> None:
        self.object_score = float(answer[3].flatten()[0])

    def embed(self, pictures: Sequence[NDArray[np.float32]]) -> list[Embedding]:
        """See Backend."""
        predictor = self._predictor
        with mixed_precision(self._device, self._precision):
            predictor.set_image_batch([np.ascontiguousarray(p.transpose(1, 2, 0)) for p in pictures])
        image, fine = predictor._features["image_embed"], predictor._features["high_res_feats"]
        out = []
        for index, picture in enumerate(pictures):
            # Copies: a view would keep the whole batch alive for as long as one of its slices is remembered.
            own = {
                "image_embed": image[index : index + 1].clone(),
                "high_res_feats": [one[index : index + 1].clone() for one in fine],
            }
            tensors = [own["image_embed"], *own["high_res_feats"]]
            out.append(Embedding(own, picture.shape[-1], sum(t.numel() * t.element_size() for t in tensors)))
        predictor.reset_predictor()
        return out

    def decode(
        self, embedding: Embedding, box: Box | None, clicks: Sequence[Click], multimask: bool
    ) -> NDArray[np.float32]:
        """See Backend."""
        predictor = self._predictor
        predictor._features = embedding.features
        predictor._orig_hw = [(embedding.side, embedding.side)]
        predictor._is_image_set, predictor._is_batch = True, False
        try:
            with mixed_precision(self._device, self._precision):
                logits, _, _ = predictor.predict(
                    point_coords=np.array([[x, y] for x, y, _ in clicks], np.float32) if clicks else None,
                    point_labels=np.array([int(positive) for *_, positive in clicks], np.int32) if clicks else None,
                    box=np.array(box, np.float32) if box is not None else None,
                    multimask_output=multimask,
                    return_logits=True,
                )
        finally:
            predictor.reset_predictor()
        return sigmoid(logits)

    def track(
        self, pictures: NDArray[np.float32], prompts: Mapping[int, tuple[Box | None, Sequence[Click]]]
    ) -> NDArray[np.float32]:
        """See Backend. Ravi et al., section 4: memory attention over the frames already seen, forward, then backward."""
        import torch

        out = np.zeros((len(pictures), *pictures.shape[2:]), np.float32)
        precision = mixed_precision(self._device, self._precision)
        with network.frames_from_arrays(), torch.inference_mode(), precision:
            state = self._network.init_state(pictures)
            for index, (box, clicks) in prompts.items():
                self._network.add_new_points_or_box(
                    state,
                    frame_idx=index,
                    obj_id=1,
                    points=np.array([[x, y] for x, y, _ in clicks], np.float32) if clicks else None,
                    labels=np.array([int(positive) for *_, positive in clicks], np.int32) if clicks else None,
                    box=np.array(box, np.float32) if box is not None else None,
                )
            for reverse, start in ((False, min(prompts)), (True, max(prompts))):
                for index, _, logits in self._network.propagate_in_video(state, start_frame_idx=start, reverse=reverse):
                    # Between two prompted frames both ways answer; the surer of the two stands.
                    out[index] = np.maximum(out[index], sigmoid(logits[0, 0].float().cpu().numpy()))
        return out

    def find(self, picture: NDArray[np.float32], words: str) -> NDArray[np.float32]:
        """SAM 2 knows no words: never called, since `concepts` is empty."""
        raise NotImplementedError

    def move(self, device: str) -> None:
        """See Backend."""
        self._network.to(device)
        self._device = device
