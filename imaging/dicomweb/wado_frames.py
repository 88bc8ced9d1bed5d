"""WADO-RS frames and rendered resources (PS3.18 sections 10.4.1.1.6, 8.3.5 and 10.4.1.2)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from imaging.dicom.transfer_syntaxes import EXPLICIT_LITTLE, FRAME_MEDIA_TYPES, NATIVE_LITTLE
from imaging.dicomweb.content_negotiation import MediaRange, NotAcceptable
from imaging.dicomweb.frame_decoding import MAX_SIDE, Presentation, bit_frame, draw, native_frame
from imaging.dicomweb.multipart import MultipartWriter
from imaging.dicomweb.qido_query import BadQuery
from imaging.dicomweb.streaming import stream
from imaging.dicomweb.wado_rs import OCTETS, ResourceView
from imaging.models import PublishedInstance
from oncoflow_site.foundation import objects

__all__ = ["Frames", "Rendered", "Thumbnail"]

MOST_FRAMES = 2000
THUMBNAIL = 128
_PICTURES = ("image/jpeg", "image/png")


def _frame_numbers(text: str, count: int) -> list[int]:
    """Indices (from 0) of a frame list (from 1). :raises Http404: one of them does not exist."""
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) > MOST_FRAMES:
        raise BadQuery("too many frames")
    if not all(1 <= number <= count for number in numbers):
        raise Http404
    return [number - 1 for number in numbers]


class Frames(ResourceView):
    """``.../instances/{instance}/frames/{list}``: frames as parts, decoded or as stored."""

    def get(
        self, request: Request, study_uid: str, series_uid: str, instance_uid: str, frames: str
    ) -> HttpResponseBase:
        """Retrieve frames."""
        ranges = self.ranges(request)
        study, rows = self.rows(request, study_uid, series_uid, instance_uid)
        row = rows[0]
        wanted = _frame_numbers(frames, row.frames)
        media_type, single = _frame_type(ranges, row.transfer_syntax_uid)
        if single and len(wanted) != 1:
            raise NotAcceptable("several frames go out as parts only")
        self.record(study)
        as_stored = media_type != OCTETS
        syntax = row.transfer_syntax_uid if as_stored else EXPLICIT_LITTLE
        contents = _stored_frames(row, wanted) if as_stored else _native_frames(row, wanted)
        label = f"{media_type}; transfer-syntax={syntax}"
        if single:
            return HttpResponse(next(contents), content_type=label)
        writer = MultipartWriter()
        where = f"{self.base_url(request)}/studies/{study_uid}/series/{series_uid}/instances/{instance_uid}/frames"
        return stream(request, _parts(writer, label, contents, wanted, where), writer.content_type(media_type))


def _frame_type(ranges: list[MediaRange], stored: str) -> tuple[str, bool]:
    """Media type of the answer, and whether it is a single part. :raises NotAcceptable:"""
    compressed = FRAME_MEDIA_TYPES.get(stored)
    for one in ranges:
        syntax, parts = one.transfer_syntax, one.multipart
        if compressed and one.covers(compressed) and syntax in ("*", stored) and one.inner != OCTETS:
            return compressed, not parts
        if compressed and one.inner == compressed and not syntax:
            return compressed, not parts
        if one.covers(OCTETS) and syntax == "*" and compressed:
            # "As it is stored" with no word on the type: the part says what it is, which is what viewers ask for.
            return compressed, not parts
        if one.covers(OCTETS) and syntax in ("", "*", EXPLICIT_LITTLE):
            return OCTETS, not parts
    raise NotAcceptable(f"only {OCTETS}{f' or {compressed}' if compressed else ''}")


def _parts(
    writer: MultipartWriter, label: str, contents: Iterator[bytes], wanted: list[int], where: str
) -> Iterator[bytes]:
    for index, content in zip(wanted, contents, strict=True):
        yield from writer.part(label, (content,), location=f"{where}/{index + 1}")
    yield writer.end()


def _stored_frames(row: PublishedInstance, wanted: list[int]) -> Iterator[bytes]:
    for index in wanted:
        yield b"".join(objects.open_range(row.object, *fragment) for fragment in row.layout["fragments"][index])


def _native_frames(row: PublishedInstance, wanted: list[int]) -> Iterator[bytes]:
    """Decoded frames. Native little endian ones are cut out of the file without reading the rest of it."""
    if row.transfer_syntax_uid not in NATIVE_LITTLE:
        data = objects.get(row.object)
        for index in wanted:
            yield native_frame(data, index)
        return
    offset, length = row.layout["pixels"]
    bits = row.layout.get("bits", 0)
    if bits == 1:
        pixels = int(row.layout["frame_pixels"])
        for index in wanted:
            first, last = index * pixels // 8, ((index + 1) * pixels + 7) // 8
            octets = objects.open_range(row.object, offset + first, last - first)
            yield bit_frame(octets, index, pixels)
        return
    size = int(row.layout["frame_pixels"]) * bits // 8
    for index in wanted:
        if (index + 1) * size > length:
            raise Http404
        yield objects.open_range(row.object, offset + index * size, size)


class Rendered(ResourceView):
    """``.../rendered`` of an instance or a frame: JPEG (default) or PNG, windowed."""

    side = 0

    def get(
        self, request: Request, study_uid: str, series_uid: str = "", instance_uid: str = "", frame: str = ""
    ) -> HttpResponseBase:
        """Retrieve a picture."""
        media_type = _picture_type(self.ranges(request))
        how = _presentation(request, media_type)
        study, rows = self.rows(request, study_uid, series_uid, instance_uid)
        shown = [row for row in rows if row.frames and row.modality != "SEG"] or [row for row in rows if row.frames]
        if not shown:
            raise NotAcceptable("it has no pixels")
        row = shown[len(shown) // 2]
        middle = row.frames // 2 if self.side or not instance_uid else 0
        index = _frame_numbers(frame, row.frames)[0] if frame else middle
        self.record(study)
        picture = draw(objects.get(row.object), index, how.fitted(self.side) if self.side else how)
        return HttpResponse(picture, content_type=media_type)


class Thumbnail(Rendered):
    """``.../thumbnail`` of a study, series, instance or frame: the middle picture, small."""

    side = THUMBNAIL


def _picture_type(ranges: list[MediaRange]) -> str:
    for one in ranges:
        for media_type in _PICTURES:
            if one.type != "multipart/related" and one.covers(media_type):
                return media_type
    raise NotAcceptable(f"only {' or '.join(_PICTURES)}")


def _numbers(text: str, name: str) -> list[float | None]:
    values: list[float | None] = []
    for part in text.split(","):
        try:
            value = float(part) if part.strip() else None
        except ValueError:
            raise BadQuery(f"{name} holds something that is no number") from None
        if value is not None and not math.isfinite(value):
            raise BadQuery(f"{name} holds something that is no number")
        values.append(value)
    return values


def _presentation(request: Request, media_type: str) -> Presentation:
    """The query parameters window, viewport and quality (PS3.18 section 8.3.5.1). :raises BadQuery:"""
    parameters = request.query_params
    window = viewport = region = None
    if text := parameters.get("window"):
        parts = text.split(",")
        function = parts[2].strip().lower() if len(parts) > 2 else "linear"
        numbers = _numbers(",".join(parts[:2]), "window")
        if (
            len(parts) > 3
            or len(numbers) != 2
            or (centre := numbers[0]) is None
            or (width := numbers[1]) is None
            or function not in ("linear", "linear-exact", "sigmoid")
        ):
            raise BadQuery("window is centre, width and linear, linear-exact or sigmoid")
        if width <= 0 or (function == "linear" and width < 1):
            raise BadQuery("the width of the window is too small")
        window = (centre, width, function)
    if text := parameters.get("viewport"):
        numbers = _numbers(text, "viewport")
        if len(numbers) not in (2, 6) or numbers[0] is None or numbers[1] is None:
            raise BadQuery("viewport is width, height and perhaps a region of the source")
        if not (1 <= numbers[0] <= MAX_SIDE and 1 <= numbers[1] <= MAX_SIDE):
            raise BadQuery(f"viewport is 1 to {MAX_SIDE} pixels")
        viewport = (int(numbers[0]), int(numbers[1]))
        if len(numbers) == 6:
            region = _region(numbers[2:])
    quality = parameters.get("quality", "90")
    if not re.fullmatch(r"\d{1,3}", quality) or not 1 <= int(quality) <= 100:
        raise BadQuery("quality is 1 to 100")
    return Presentation(window, viewport, region, media_type, int(quality))


def _region(numbers: list[float | None]) -> tuple[float, float, float, float]:
    x, y, width, height = (value if value is not None else 0.0 for value in numbers)
    if not (0 <= x <= MAX_SIDE and 0 <= y <= MAX_SIDE and 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BadQuery("the region of viewport lies outside any image")
    return x, y, width, height
