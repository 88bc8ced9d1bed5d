"""A second look for burned-in text: a small convolutional network that knows how lines of letters look, not what they say.

It sees letters of whatever script and language in any of four directions, and asks for some three of them in a row. About
40,000 weights in ``data/textnet.npz``, trained on words drawn into simulated slices, textures and screens
(``python -m oncoflow_site.demo.lettering_training``); no person's data was used. Runs on numpy alone. What the numbers in
docs/deidentification.md say of it was measured on fonts and real series that training never saw.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["LAYERS", "STRIDE", "THRESHOLD", "channels", "lettering"]

# (input channels, output channels, kernel, stride, dilation) of each layer; a ReLU between two.
LAYERS = (
    (2, 12, 3, 1, 1),
    (12, 16, 3, 2, 1),
    (16, 24, 3, 1, 1),
    (24, 32, 3, 2, 1),
    (32, 32, 3, 1, 1),
    (32, 32, 3, 1, 2),
    (32, 32, 3, 1, 4),
    (32, 1, 1, 1, 1),
)
STRIDE = 4
THRESHOLD = 4.5  # log odds over the size of two letters; set on other pictures than those it is judged by
SCALES = (2.0, 1.0, 0.5, 0.25)  # trained for capitals of 6 to 20 pixels
SIDES = (48, 1300)  # of a scaled frame's longer side, pixels
_TILE, _MARGIN = 512, 64
_SIGMA = 8.0


def channels(picture: NDArray[np.floating]) -> NDArray[np.float32]:
    """What the network is given: (2, rows, columns), the picture (0 to 1) and its contrast evened out."""
    plain = np.asarray(picture, dtype=np.float32)
    centred = plain - ndimage.gaussian_filter(plain, _SIGMA, mode="nearest")
    spread = np.sqrt(ndimage.gaussian_filter(centred**2, _SIGMA, mode="nearest")) + 0.03
    return np.stack([plain - 0.5, np.clip(centred / spread, -4, 4) / 2]).astype(np.float32)


def lettering(picture: NDArray[np.floating]) -> float:
    """How much the picture (rows, columns), 0 to 1, looks as if something was written in it: log odds at the likeliest place.

    `THRESHOLD` and more is text.
    """
    longest = max(picture.shape)
    best = -np.inf
    for scale in SCALES:
        if scale != 1.0 and not SIDES[0] <= longest * scale <= SIDES[1]:
            continue
        best = max(best, _likeliest(_scaled(picture, scale)))
    return float(best)


def _scaled(picture: NDArray[np.floating], scale: float) -> NDArray[np.float32]:
    plain = np.asarray(picture, dtype=np.float32)
    if scale == 1.0:
        return plain
    if scale > 1.0:
        return np.clip(ndimage.zoom(plain, scale, order=1), 0, 1)
    step = round(1 / scale)
    rows, columns = (max(step, n - n % step) for n in plain.shape)
    plain = np.pad(plain, [(0, max(0, rows - plain.shape[0])), (0, max(0, columns - plain.shape[1]))], mode="edge")
    cut = plain[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return np.asarray(cut.mean(axis=(1, 3)), dtype=np.float32)


def _likeliest(picture: NDArray[np.float32]) -> float:
    given = channels(picture)
    _, rows, columns = given.shape
    best = -np.inf
    for top in range(0, rows, _TILE):
        for left in range(0, columns, _TILE):
            above, before = min(top, _MARGIN), min(left, _MARGIN)
            tile = given[:, top - above : top + _TILE + _MARGIN, left - before : left + _TILE + _MARGIN]
            odds = network(tile)[above // STRIDE :, before // STRIDE :]
            odds = odds[: _TILE // STRIDE + 2, : _TILE // STRIDE + 2]
            # Two letters' worth, lying or standing: one bright spot alone is no word.
            for size in ((2, 4), (4, 2)):
                best = max(best, float(ndimage.uniform_filter(odds, size, mode="nearest").max()))
    return best


def network(given: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, rows, columns) -> log odds of lettering, (rows / 4, columns / 4) rounded up."""
    value = given
    weights = _weights()
    for number, (_, out, kernel, stride, dilation) in enumerate(LAYERS):
        value = _convolve(value, weights[2 * number], weights[2 * number + 1], out, kernel, stride, dilation)
        if number < len(LAYERS) - 1:
            np.maximum(value, 0, out=value)
    return value[0]


def _convolve(
    value: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: int,
    kernel: int,
    stride: int,
    dilation: int,
) -> NDArray[np.float32]:
    """One layer as kernel x kernel products of matrices: (channels, rows, columns) -> (out, rows, columns), zeros around."""
    around = dilation * (kernel // 2)
    padded = np.pad(value, [(0, 0), (around, around), (around, around)])
    rows, columns = ((n - 1) // stride + 1 for n in value.shape[1:])
    total = np.repeat(bias[:, np.newaxis], rows * columns, axis=1)
    for i in range(kernel):
        for j in range(kernel):
            y, x = i * dilation, j * dilation
            seen = padded[:, y : y + (rows - 1) * stride + 1 : stride, x : x + (columns - 1) * stride + 1 : stride]
            total += weight[:, :, i, j] @ seen.reshape(seen.shape[0], -1)
    return total.reshape(out, rows, columns)


@lru_cache(maxsize=1)
def _weights() -> tuple[NDArray[np.float32], ...]:
    """Weight (out, in, kernel, kernel) and bias (out) of each layer, in order."""
    with np.load(Path(__file__).with_name("data") / "textnet.npz", allow_pickle=False) as stored:
        return tuple(
            stored[f"{what}{number}"].astype(np.float32) for number in range(len(LAYERS)) for what in ("weight", "bias")
        )
