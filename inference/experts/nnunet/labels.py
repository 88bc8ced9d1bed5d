"""What a trained nnU-Net's channels mean: read from its dataset.json, by name, and by nesting where names say nothing.

Datasets number and name the same tissue differently: BraTS until 2021 has 1 NCR, 2 ED, 4 ET; nnU-Net's own conversion of it
1 ED, 2 NCR, 3 ET; BraTS 2023 1 NCR, 2 SNFH, 3 ET; BraTS 2024 adds 4 RC; the Medical Segmentation Decathlon 1 oedema,
2 non-enhancing, 3 enhancing. So a number alone is only believed where it can mean one thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imaging.brats.regions import REGIONS
from inference.experts.errors import WeightsMismatch

__all__ = ["CHANNEL_NAMES", "channel_order", "region_channels"]

CHANNEL_NAMES: dict[str, str] = {
    **dict.fromkeys(("t1", "t1n", "t1w", "t1native", "t1weighted"), "T1"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1cw", "t1wce", "t1post", "t1contrast", "t1km", "ct1"), "T1c"),
    **dict.fromkeys(("t2", "t2w", "t2weighted"), "T2"),
    **dict.fromkeys(("flair", "t2f", "t2flair", "fl", "t2wflair"), "FLAIR"),
}
"""How datasets name their channels, letters and digits only, -> the sequence of this project."""

_TISSUES: tuple[tuple[str, str], ...] = (
    # In this order: "non-enhancing" contains "enhancing".
    ("RC", r"\brc\b|cavity|resection"),
    ("NCR", r"ncr|necro|\bnet\b|netc|non[\s_-]*enhanc"),
    ("ED", r"\bed\b|o?edema|snfh|infiltrat|peritumou?r|non[\s_-]*tumou?r"),
    ("ET", r"\bet\b|enhanc|\bat\b|active"),
)
_REGIONS: tuple[tuple[str, str], ...] = (
    ("WT", r"\bwt\b|whole"),
    ("TC", r"\btc\b|core"),
    ("ET", r"\bet\b|enhanc"),
)
_TISSUES_OF = {"ET": ("ET",), "TC": ("NCR", "ET"), "WT": ("NCR", "ED", "ET")}
_BY_NUMBER: dict[tuple[int, ...], dict[str, int]] = {(1, 2, 4): {"NCR": 1, "ED": 2, "ET": 4}}


def channel_order(dataset_json: Mapping[str, Any]) -> list[str]:
    """The sequence of each input channel, in the model's order. Raises WeightsMismatch for a name that is not known."""
    names = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
    order: list[str] = []
    for index in range(len(names)):
        name = str(names.get(str(index), ""))
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if plain not in CHANNEL_NAMES:
            raise WeightsMismatch(f"unknown channel name {name!r}")
        order.append(CHANNEL_NAMES[plain])
    if not order or len(set(order)) != len(order):
        raise WeightsMismatch("dataset.json does not name each of its channels once")
    return order


def region_channels(labels: Mapping[str, Any]) -> tuple[bool, dict[str, tuple[int, ...]]]:
    """Which output channels make each region, from dataset.json's labels.

    Returns (is region-based, {region: channels whose probabilities are summed}). Raises WeightsMismatch when a BraTS
    region cannot be made from the model's labels, or when it cannot be told which label is which tissue.
    """
    foreground: list[tuple[str, tuple[int, ...]]] = []
    for name, value in labels.items():
        numbers = tuple(sorted(int(v) for v in value)) if isinstance(value, list | tuple) else (int(value),)
        if name != "ignore" and numbers != (0,):
            foreground.append((str(name), numbers))
    if any(len(numbers) > 1 for _, numbers in foreground):
        return True, _regions(foreground)
    return False, _tissues(foreground)


def _regions(foreground: list[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Region-based: one sigmoid channel a region, in dataset.json's order."""
    found: dict[str, int] = {}
    for index, (name, _) in enumerate(foreground):
        for region, pattern in _REGIONS:
            if region not in found and re.search(pattern, name.lower().replace("_", " ")):
                found[region] = index
                break
    sets = [set(numbers) for _, numbers in foreground]
    if set(found) != set(REGIONS) and len(foreground) == len(REGIONS):
        # Names that say nothing: three nested sets of labels can be only one thing.
        found = dict(zip(REGIONS, sorted(range(len(sets)), key=lambda i: len(sets[i])), strict=True))
    missing = [region for region in REGIONS if region not in found]
    if missing:
        raise WeightsMismatch(f"the model has no region {', '.join(missing)}")
    if not sets[found["ET"]] < sets[found["TC"]] < sets[found["WT"]]:
        raise WeightsMismatch("the model's regions are not ET within TC within WT")
    return {region: (found[region],) for region in REGIONS}


def _tissues(foreground: list[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Label-based: softmax, channel 0 the background, then the labels in ascending order."""
    order = sorted(numbers[0] for _, numbers in foreground)
    channel = {label: index + 1 for index, label in enumerate(order)}
    meaning: dict[str, int] = {}
    for name, numbers in foreground:
        for tissue, pattern in _TISSUES:
            if re.search(pattern, name.lower().replace("_", " ")):
                if tissue in meaning:
                    raise WeightsMismatch(f"two labels of the model are called {tissue}")
                meaning[tissue] = numbers[0]
                break
    known = _BY_NUMBER.get(tuple(order))
    if known is not None and not meaning:
        meaning = dict(known)
    missing = [tissue for tissue in ("NCR", "ED", "ET") if tissue not in meaning]
    if missing:
        raise WeightsMismatch(f"the model has no label for {', '.join(missing)}, or names it as nobody does")
    return {region: tuple(channel[meaning[t]] for t in tissues) for region, tissues in _TISSUES_OF.items()}
