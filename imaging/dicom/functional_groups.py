"""Functional groups: where a multi-frame image keeps what a classic one says once (PS3.3 C.7.6.16).

Every group is either shared by all frames or said for each of them, never both. Legacy Converted images (PS3.3 A.70, A.71)
have only the groups of geometry and grey values; what else their classic sources said stands in two groups without a meaning
of their own, Unassigned Shared and Unassigned Per-Frame Converted Attributes (C.7.6.16.2.25.1, C.7.6.16.2.25.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

__all__ = ["FunctionalGroups"]

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_UNASSIGNED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")


class FunctionalGroups:
    """The functional groups of one image. A classic image is its own only group. Sequences that are none count as absent.

    :ivar multi_frame: whether the image describes its frames one by one.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._shared = _items(dataset, _SHARED)[:1]
        self._frames = _items(dataset, _PER_FRAME)
        self.multi_frame = _PER_FRAME in dataset

    def __len__(self) -> int:
        """How many frames are described; 0 for a classic image."""
        return len(self._frames)

    def group(self, keyword: str, frame: int) -> Dataset:
        """The group of a frame (from 0), its own or the shared one; empty where there is none. Of a classic image: itself.

        :param keyword: of the macro's sequence, such as ``PixelMeasuresSequence``.
        """
        if not self.multi_frame:
            return self._dataset
        for holder in (*self._frames[frame : frame + 1], *self._shared):
            if items := _items(holder, keyword):
                return items[0]
        return Dataset()

    def places(self, keywords: Iterable[str], frame: int = 0) -> Iterator[Dataset]:
        """Where an attribute of any of these groups may stand, best first: the data set itself, as in a classic image; the
        shared groups; the frame's; of each kind the unassigned attributes last."""
        yield self._dataset
        macros = (*keywords, *_UNASSIGNED)
        for holder in (*self._shared, *self._frames[frame : frame + 1]):
            for keyword in macros:
                yield from _items(holder, keyword)[:1]

    def every(self, keyword: str) -> Iterator[Dataset]:
        """Each item of this group, shared and of all frames."""
        for holder in (*self._shared, *self._frames):
            yield from _items(holder, keyword)


def _items(holder: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, which may come with any value representation and hold none."""
    items = holder.get(keyword)
    return list(items) if isinstance(items, Sequence) else []
