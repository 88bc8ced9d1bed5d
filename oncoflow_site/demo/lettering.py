"""Pictures with and without words: what the detector of burned-in text is trained and measured on. No person's data.

Words (names, dates, numbers, made of random letters for the most part, so that no word is known by heart) are drawn into
simulated slices, into textures, and onto screens with everything that looks a little like letters: scales, ticks, wedges,
arrows, boxes. Everything follows from the generator that is passed in.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

__all__ = [
    "HELD_OUT_FONTS",
    "TRAINING_FONTS",
    "Ground",
    "Words",
    "font_files",
    "simulated_slices",
    "some_text",
    "text_free",
    "worn",
    "write_words",
]

Ground = NDArray[np.float32]
"""A picture (rows, columns), 0 to 1."""

_SHIPPED = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf"
TRAINING_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono-Bold",
    "cmr10", "cmb10", "cmss10",
)  # fmt: skip
HELD_OUT_FONTS = ("DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "cmtt10", "DejaVuSerif-Italic")
LEAST_LEGIBLE = 3  # characters; fewer name nobody, and are neither right nor wrong in training


@dataclass(frozen=True)
class Words:
    """What was written into a picture.

    :param box: (top, left, bottom, right) in the finished picture. :param height: of a capital, pixels.
    :param contrast: least distance between ink and the median of what it was written on, 0 to 1.
    """

    text: str
    box: tuple[int, int, int, int]
    height: float
    contrast: float


def font_files(names: Sequence[str]) -> list[Path]:
    """The files of fonts that come with matplotlib."""
    return [_SHIPPED / f"{name}.ttf" for name in names]


def simulated_slices(
    seed: int, scenario: str, rng: np.random.Generator, count: int, *, skull: bool = True
) -> list[Ground]:
    """``count`` slices of all four sequences of one simulated patient, in the three directions. Takes some ten seconds."""
    from oncoflow_site.demo.simulator.patient import SyntheticPatient

    series = SyntheticPatient(seed, scenario, spacing=2).acquire(0, skull=skull).series
    found: list[Ground] = []
    names = sorted(series)
    while len(found) < count:
        pixels = series[names[len(found) % len(names)]].pixels
        axis = int(rng.integers(3))
        at = int(rng.uniform(0.2, 0.8) * pixels.shape[axis])
        plane = np.take(pixels, at, axis=axis).astype(np.float32).T
        if min(plane.shape) < 120:  # a thick-sliced series from the side: as a viewer would show it
            plane = ndimage.zoom(plane, [max(1.0, 180 / n) for n in plane.shape], order=1)
        found.append(shown(plane))
    return found


def shown(plane: NDArray[np.floating]) -> Ground:
    """Pixel values from 0 to 1 as a viewer shows them: up to the brightest half per cent."""
    low, high = float(plane.min()), float(np.percentile(plane, 99.5))
    return np.clip((plane - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def some_text(rng: np.random.Generator) -> str:
    """A name, a date, a number or a mixture, three characters at least."""
    letters = string.ascii_uppercase if rng.random() < 0.5 else string.ascii_lowercase

    def word(least: int = 3, most: int = 10) -> str:
        return "".join(rng.choice(list(letters), size=int(rng.integers(least, most + 1))))

    def digits(n: int) -> str:
        return "".join(rng.choice(list(string.digits), size=n))

    year, month, day = int(rng.integers(1920, 2027)), int(rng.integers(1, 13)), int(rng.integers(1, 29))
    kinds = (
        lambda: word(),
        lambda: word().capitalize(),
        lambda: f"{word().capitalize()} {word().capitalize()}",
        lambda: f"{word().upper()}, {word().capitalize()}",
        lambda: f"{word().upper()}^{word().upper()}",
        lambda: f"{year}{month:02d}{day:02d}",
        lambda: f"{day:02d}.{month:02d}.{year}",
        lambda: f"{year}-{month:02d}-{day:02d}",
        lambda: f"{month}/{day}/{year % 100:02d}",
        lambda: digits(int(rng.integers(4, 11))),
        lambda: f"ID: {digits(int(rng.integers(5, 9)))}",
        lambda: f"{word(3, 5)} {digits(3)} {word(3, 6)}",
        lambda: f"{int(rng.integers(1, 99))}Y {'MF'[int(rng.integers(2))]} {digits(6)}",
    )
    return kinds[int(rng.integers(len(kinds)))]()


def write_words(
    ground: Ground,
    rng: np.random.Generator,
    fonts: Sequence[Path],
    text: str,
    *,
    height: float,
    contrast: float = 0.3,
    turns: int | None = None,
) -> tuple[Ground, Words] | None:
    """``ground`` with ``text`` in it, somewhere; None where it does not fit, or no ink stands out enough there.

    :param height: of a capital letter, pixels. :param contrast: least distance of the ink from what lies under it.
    :param turns: quarter turns against the clock; at random where None.
    """
    turns = int(rng.choice([0, 0, 0, 1, 2, 3])) if turns is None else turns
    picture = np.rot90(ground, -turns).copy()
    font = ImageFont.truetype(str(fonts[int(rng.integers(len(fonts)))]), max(5, round(height / 0.73)))
    left, top, right, bottom = (round(v) for v in font.getbbox(text))
    width, tall = right - left, bottom - top
    rows, columns = picture.shape
    if width + 4 > columns or tall + 4 > rows or width < 4:
        return None
    x, y = int(rng.integers(2, columns - width - 1)), int(rng.integers(2, rows - tall - 1))
    paper = Image.new("L", (columns, rows))
    drawing = ImageDraw.Draw(paper)
    drawing.fontmode = "L" if rng.random() < 0.6 else "1"
    drawing.text((x - left, y - top), text, fill=255, font=font)
    mask = np.asarray(paper, dtype=np.float32) / 255.0
    under = picture[y : y + tall, x : x + width]
    style = rng.random()
    if style < 0.12:  # in a box of its own
        paint = float(rng.choice([0.0, 0.0, 1.0, rng.random()]))
        picture[max(0, y - 2) : y + tall + 2, max(0, x - 2) : x + width + 2] = paint
        under = picture[y : y + tall, x : x + width]
    elif style < 0.22:  # with a dark rim, as many viewers write
        rim = ndimage.grey_dilation(mask, size=3)
        picture = picture * (1 - rim)
    ink = _ink(under, rng, contrast)
    if ink is None:
        return None
    strength = abs(ink - float(np.median(under)))
    picture = picture * (1 - mask) + ink * mask
    out = np.rot90(picture, turns)
    marks = np.zeros(picture.shape, dtype=bool)
    marks[y : y + tall, x : x + width] = True
    r, c = np.nonzero(np.rot90(marks, turns))
    box = (int(r.min()), int(c.min()), int(r.max()) + 1, int(c.max()) + 1)
    return np.ascontiguousarray(out, dtype=np.float32), Words(text, box, height, strength)


def _ink(under: Ground, rng: np.random.Generator, contrast: float) -> float | None:
    """A grey that stands out by ``contrast`` from nearly all that it is written on: white and black most often."""
    low, high = np.percentile(under, (15, 85))
    candidates = [1.0, 1.0, 1.0, 0.0, *rng.random(4)]
    good = [ink for ink in candidates if min(abs(ink - low), abs(ink - high)) >= contrast and not low < ink < high]
    return float(good[int(rng.integers(len(good)))]) if good else None


def worn(picture: Ground, rng: np.random.Generator) -> Ground:
    """As it may look after a viewer and a compression: a little blur, noise, JPEG."""
    out = picture
    if rng.random() < 0.35:
        out = ndimage.gaussian_filter(out, float(rng.uniform(0.3, 0.7)))
    if rng.random() < 0.4:
        out = out + rng.normal(0, float(rng.uniform(0.005, 0.04)), out.shape).astype(np.float32)
    out = np.clip(out, 0, 1)
    if rng.random() < 0.3:
        buffer = BytesIO()
        Image.fromarray((255 * out).astype(np.uint8)).save(buffer, "JPEG", quality=int(rng.integers(50, 95)))
        out = np.asarray(Image.open(buffer), dtype=np.float32) / 255.0
    return out.astype(np.float32)


def text_free(rng: np.random.Generator, size: int) -> Ground:
    """A made-up picture without a word: texture, steps, shapes, or what viewers draw besides words."""
    kind = rng.random()
    picture: NDArray[np.floating]
    if kind < 0.35:
        scale = float(np.exp(rng.uniform(np.log(0.6), np.log(12))))
        picture = shown(ndimage.gaussian_filter(rng.normal(size=(size, size)), scale))
        if rng.random() < 0.4:
            picture = (picture > rng.uniform(0.3, 0.7)).astype(np.float32) * float(rng.uniform(0.4, 1))
        if rng.random() < 0.4:
            other = shown(ndimage.gaussian_filter(rng.normal(size=(size, size)), scale * 4))
            picture = picture * other
    elif kind < 0.5:
        y, x = np.mgrid[:size, :size] / size
        picture = np.full((size, size), float(rng.random() * 0.3))
        for _ in range(int(rng.integers(1, 30))):
            cx, cy = rng.random(2)
            a, b = np.exp(rng.uniform(np.log(0.015), np.log(0.5), 2))
            turn = rng.uniform(0, np.pi)
            u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
            v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
            picture = np.where((u / a) ** 2 + (v / b) ** 2 < 1, float(rng.random()), picture)
    else:
        picture = np.zeros((size, size)) if rng.random() < 0.6 else np.full((size, size), float(rng.random()))
    picture = picture.astype(np.float32)
    return drawn_over(picture, rng) if rng.random() < 0.6 else picture


def drawn_over(ground: Ground, rng: np.random.Generator) -> Ground:
    """What viewers and stations draw besides words: rulers, wedges, boxes, rings, crosses, arrows, dashed lines, icons."""
    rows, columns = ground.shape
    paper = Image.fromarray((255 * ground).astype(np.uint8))
    drawing = ImageDraw.Draw(paper)
    for _ in range(int(rng.integers(1, 6))):
        ink = int(rng.choice([255, 255, 255, 0, int(rng.integers(256))]))
        x, y = int(rng.integers(columns)), int(rng.integers(rows))
        long, wide = int(rng.integers(8, max(9, columns // 2))), int(rng.integers(1, 4))
        what = int(rng.integers(8))
        if what == 0:  # a ruler
            step, tick = int(rng.integers(3, 20)), int(rng.integers(2, 9))
            upright = rng.random() < 0.5
            for n, along in enumerate(range(0, long * 2, step)):
                size = tick * (2 if n % 5 == 0 else 1)
                ends = (x, y + along, x + size, y + along) if upright else (x + along, y, x + along, y + size)
                drawing.line(ends, fill=ink)
            drawing.line((x, y, x, y + 2 * long) if upright else (x, y, x + 2 * long, y), fill=ink)
        elif what == 1:  # a grey wedge
            for n in range(16):
                drawing.rectangle((x, y + 6 * n, x + 12, y + 6 * n + 5), fill=16 * n)
        elif what == 2:
            drawing.rectangle((x, y, x + long, y + long // 2), outline=ink, width=wide)
        elif what == 3:
            drawing.ellipse((x, y, x + long, y + long * int(rng.integers(1, 3)) // 2), outline=ink, width=wide)
        elif what == 4:  # a cross, or cross hairs
            drawing.line((x - long, y, x + long, y), fill=ink, width=wide)
            drawing.line((x, y - long, x, y + long), fill=ink, width=wide)
        elif what == 5:  # an arrow
            drawing.line((x, y, x + long, y + long // 3), fill=ink, width=wide)
            drawing.polygon([(x, y), (x + 8, y - 2), (x + 5, y + 7)], fill=ink)
        elif what == 6:  # a dashed line
            for along in range(0, 2 * long, 8):
                drawing.line((x + along, y, x + along + 4, y), fill=ink, width=wide)
        else:  # a row of plain icons
            size = int(rng.integers(5, 20))
            for n in range(int(rng.integers(1, 3))):
                shape = drawing.rectangle if rng.random() < 0.5 else drawing.ellipse
                shape((x + n * 2 * size, y, x + n * 2 * size + size, y + size), fill=ink)
    return np.asarray(paper, dtype=np.float32) / 255.0
