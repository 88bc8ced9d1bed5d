"""What refining takes and answers, as forms that check it and describe it in the API's schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from imaging.brats.regions import REGIONS
from imaging.rendering.slices import VIEW_PLANES
from imaging.segmentation.corrections import HOW, Correction
from imaging.segmentation.run_length import decode_runs
from inference.experts.contract import Prompt
from oncoflow_site.foundation.errors import UserVisibleError

__all__ = ["CorrectionsForm", "PromptForm", "RefinedForm", "first_error"]

MOST_POINTS = 100
MOST_RUNS = 1_000_000
MOST_VOXELS = 1 << 31


class VoxelField(serializers.ListField):
    """[z, y, x], voxel indices of the study's reference grid."""

    child = serializers.IntegerField(min_value=0, max_value=10_000)

    def __init__(self, **more: Any) -> None:
        super().__init__(min_length=3, max_length=3, **more)


class PointForm(serializers.Serializer[Any]):
    """A click: a voxel of the reference grid that belongs to the region, or does not."""

    z = serializers.IntegerField(min_value=0, max_value=10_000)
    y = serializers.IntegerField(min_value=0, max_value=10_000)
    x = serializers.IntegerField(min_value=0, max_value=10_000)
    positive = serializers.BooleanField(default=True)


class BoxForm(serializers.Serializer[Any]):
    """Two opposite corners, both inside; one slice thick, or a box in space."""

    first = VoxelField(help_text="[z, y, x]")
    last = VoxelField(help_text="[z, y, x]; none smaller than in `first`")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if any(a > b for a, b in zip(attrs["first"], attrs["last"], strict=True)):
            raise serializers.ValidationError("No index of `last` may be smaller than in `first`.")
        return attrs


class PromptForm(serializers.Serializer[Any]):
    """Points, or a box, or both. All of a session's points are sent with each request: nothing is remembered of them."""

    region = serializers.ChoiceField(choices=REGIONS, required=False)
    points = PointForm(many=True, required=False, default=list)
    box = BoxForm(required=False, allow_null=True, default=None)
    plane = serializers.ChoiceField(choices=VIEW_PLANES, default="axial", help_text="The slices the person looks at.")
    scope = serializers.ChoiceField(
        choices=("slice", "volume"),
        default="slice",
        help_text="`slice`: the slice of the points or the box alone. `volume`: carried to its neighbours.",
    )
    prepare = serializers.BooleanField(
        default=False, help_text="No prompt yet: have the expert load the study, so that the first click is quick."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["prepare"]:
            return attrs
        points, box, axis = attrs["points"], attrs["box"], VIEW_PLANES.index(attrs["plane"])
        if "region" not in attrs:
            raise serializers.ValidationError("`region` is missing.")
        if len(points) > MOST_POINTS:
            raise serializers.ValidationError(f"At most {MOST_POINTS} points.")
        if box is None and not any(point["positive"] for point in points):
            raise serializers.ValidationError("Give a positive point or a box.")
        if attrs["scope"] == "slice":
            slices = {point["zyx"[axis]] for point in points} | {c[axis] for c in (box or {}).values()}
            if len(slices) != 1:
                raise serializers.ValidationError("For one slice, all points and the box must lie on it.")
        return attrs

    @staticmethod
    def prompt(data: Mapping[str, Any]) -> Prompt | None:
        """What the expert is asked; None where it is only to get ready."""
        if data["prepare"]:
            return None
        points = tuple((p["z"], p["y"], p["x"], p["positive"]) for p in data["points"])
        box = tuple(tuple(data["box"][corner]) for corner in ("first", "last")) if data["box"] else None
        return Prompt(data["region"], points, box, VIEW_PLANES.index(data["plane"]), data["scope"])  # type: ignore[arg-type]


@extend_schema_field({"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MOST_RUNS})
class RunsField(serializers.Field[Any, Any, Any, Any]):
    """Whole numbers from 0; checked together, since a mask has thousands of them."""

    def to_internal_value(self, data: Any) -> list[int]:
        if not isinstance(data, list) or len(data) > MOST_RUNS:
            raise serializers.ValidationError(f"A list of at most {MOST_RUNS} numbers is expected.")
        if any(type(one) is not int or not 0 <= one <= MOST_VOXELS for one in data):
            raise serializers.ValidationError("Run lengths are whole numbers from 0.")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class MaskForm(serializers.Serializer[Any]):
    """A mask on a part of the reference grid, as run lengths."""

    origin = VoxelField(help_text="[z, y, x] of the part's first voxel")
    shape = VoxelField(help_text="[z, y, x] voxels of the part")
    runs = RunsField(
        help_text="Lengths of alternating runs, the first of voxels outside the mask, in C order (x fastest).",
    )


class RefinedForm(serializers.Serializer[Any]):
    """The answer: what the mask says holds for its part alone, which for `slice` is the whole slice."""

    volume_set = serializers.UUIDField()
    region = serializers.ChoiceField(choices=REGIONS)
    mask = MaskForm()
    grid = VoxelField(help_text="[z, y, x] voxels of the reference grid")
    voxels = serializers.IntegerField(help_text="In the mask.")
    model = serializers.DictField(help_text="name, version, sha256, architecture")
    runtime_s = serializers.FloatField()
    device = serializers.CharField()
    notes = serializers.ListField(child=serializers.CharField())


class CorrectionForm(serializers.Serializer[Any]):
    """A change of one region on the part of a mask."""

    region = serializers.ChoiceField(choices=REGIONS)
    how = serializers.ChoiceField(choices=HOW, default="replace", help_text="`replace`: within the mask's part.")
    mask = MaskForm()


class CorrectionsForm(serializers.Serializer[Any]):
    """Corrections of a parent outline, applied in their order; regions stay nested."""

    parent = serializers.UUIDField(  # type: ignore[assignment]  # DRF takes declared fields off the class
        allow_null=True, help_text="Outline that was corrected; null: an empty one."
    )
    reason = serializers.CharField(max_length=300, help_text="Why, without names or numbers of a patient.")
    corrections = CorrectionForm(many=True)
    seen = serializers.UUIDField(
        required=False,
        allow_null=True,
        help_text="The outline in force that the person saw: refused with `superseded` when another one is meanwhile.",
    )

    @staticmethod
    def unpacked(data: Mapping[str, Any], grid: tuple[int, int, int]) -> list[Correction]:
        """The changes of a checked form. :raises UserVisibleError: a part larger than the grid, runs that do not fit it."""
        found = []
        for one in data["corrections"]:
            mask = one["mask"]
            z, y, x = mask["shape"]
            # Before anything is unpacked: a few numbers could stand for more voxels than there is memory.
            if any(n > length for n, length in zip((z, y, x), grid, strict=True)):
                raise UserVisibleError("A part is larger than the study's grid.", code="outside")
            origin = tuple(mask["origin"])
            found.append(Correction(one["region"], one["how"], origin, decode_runs(mask["runs"], (z, y, x))))
        return found


def first_error(errors: Any) -> str:
    """The first sentence of a form's errors with the field it is about."""
    if isinstance(errors, dict):
        name, inner = next(iter(errors.items()))
        text = first_error(inner)
        return text if name == "non_field_errors" else f"{name}: {text}"
    if isinstance(errors, list):
        return first_error(next((one for one in errors if one), ""))
    return str(errors)
