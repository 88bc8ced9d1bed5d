"""What an expert does when memory runs out: a smaller step, then the CPU, and it says so in its notes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from inference.experts.errors import ExpertFailed

__all__ = ["MemoryFallback", "is_out_of_memory", "mixed_precision"]

T = TypeVar("T")


def mixed_precision(device: str, wanted: str = "") -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a GPU; float32 on a CPU unless `wanted` is "bfloat16". "float32" turns it off everywhere."""
    import torch

    kind = device.partition(":")[0]
    return torch.autocast(
        kind, torch.bfloat16, enabled=(wanted or ("bfloat16" if kind == "cuda" else "")) == "bfloat16"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or in the CPU's allocator (which has no type of its own)."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class MemoryFallback:
    """Runs steps of a model with ever smaller batches, at last on the CPU.

    move: takes the model to a device. What was given up counts until `begin`, which starts the next request as configured:
    a neighbour on the same GPU may have gone meanwhile.
    """

    def __init__(
        self, device: str, batch: int, move: Callable[[str], None], smaller: str = "went on with {batch} at a time"
    ) -> None:
        self.wanted = (device, max(1, batch))
        self.device, self.batch = self.wanted
        self._move = move
        self._smaller = smaller
        self.notes: list[str] = []

    def begin(self) -> None:
        """Start a request with the configured batch and device."""
        self.notes = []
        if self.device != self.wanted[0]:
            self._move(self.wanted[0])
        self.device, self.batch = self.wanted

    def run(self, step: Callable[[int], T]) -> T:
        """`step(batch)`, repeated with less while memory runs out. Raises ExpertFailed when nothing is left to give up."""
        while True:
            try:
                return step(self.batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback would keep the step's tensors alive.
            self._give_up_something()

    def _give_up_something(self) -> None:
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch = max(1, self.batch // 2)
            self.notes.append("memory ran out: " + self._smaller.format(batch=self.batch))
        elif not self.device.startswith("cpu"):
            self.notes.append(f"memory ran out on {self.device}: went on on the CPU")
            self.device = "cpu"
            self._move("cpu")
        else:
            raise ExpertFailed("memory ran out, also with the smallest batch on the CPU")
