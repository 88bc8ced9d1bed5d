"""What uploads take and answer, as forms that check it and describe it in the API's schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from clinical.identity import SEXES
from imaging.brats.sequences import PANEL_SEQUENCES
from imaging.intake.upload_declaration import UploadDeclaration
from imaging.models import UploadState

__all__ = ["DeclarationForm", "PresignForm", "PresignedForm", "UploadForm"]


class DeclarationForm(serializers.Serializer[Any]):
    """Whose and when the images are. DICOM says so itself and needs nothing; what is declared stands above its headers."""

    patient = serializers.UUIDField(required=False, allow_null=True, help_text="A patient of the caller's, or:")
    mrn = serializers.CharField(required=False, allow_blank=True, max_length=64, default="")
    authority = serializers.CharField(
        required=False, allow_blank=True, max_length=64, default="", help_text="Of the number; default: the hospital's."
    )
    family = serializers.CharField(required=False, allow_blank=True, max_length=100, default="")
    given = serializers.CharField(required=False, allow_blank=True, max_length=100, default="")
    birth_date = serializers.DateField(required=False, allow_null=True, default=None)
    sex = serializers.ChoiceField(choices=SEXES, required=False, default="U")
    date = serializers.DateField(required=False, allow_null=True, default=None, help_text="Of the examination.")
    sequences = serializers.DictField(
        child=serializers.CharField(max_length=500),
        required=False,
        default=dict,
        help_text=f"For NIfTI: {', '.join(PANEL_SEQUENCES)} -> name of the file.",
    )
    spacing_known = serializers.BooleanField(
        required=False, default=True, help_text="False: nothing in millimetres is assessed."
    )
    geometry_confirmed = serializers.BooleanField(
        required=False,
        default=False,
        help_text="True: side and voxel size of the NIfTI headers are right, whatever speaks against them.",
    )

    @classmethod
    def declared(cls, data: Any) -> UploadDeclaration:
        """:raises ValidationError: :raises UserVisibleError:"""
        form = cls(data=data)
        form.is_valid(raise_exception=True)
        return cls.of(form.validated_data)

    @staticmethod
    def of(checked: Mapping[str, Any] | None) -> UploadDeclaration:
        """What was checked already, as it is kept. :raises UserVisibleError:"""
        given = dict(checked or {})
        return UploadDeclaration(day=given.pop("date", None), **given)


class UploadedFileForm(serializers.Serializer[Any]):
    """A file of an upload."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    fingerprint = serializers.CharField()
    size = serializers.IntegerField()
    offset = serializers.IntegerField(help_text="Bytes that are here.")
    signed = serializers.BooleanField()
    url = serializers.CharField(allow_null=True, help_text="The tus resource.")


class UploadForm(serializers.Serializer[Any]):
    """An upload as its owner sees it."""

    id = serializers.UUIDField()
    state = serializers.ChoiceField(choices=UploadState.choices)
    code = serializers.CharField(help_text="Why it failed: bad-zip, zip-bomb, sha256, undeclared, ...")
    counts = serializers.DictField(
        child=serializers.IntegerField(), help_text="stored, duplicate, quarantined, refused, ignored"
    )
    notes = serializers.ListField(child=serializers.CharField(), help_text="Sentences, with names of files.")
    studies = serializers.ListField(child=serializers.UUIDField())
    studies_of_other_patients = serializers.IntegerField(help_text="Filed under patients that are not the caller's.")
    job = serializers.UUIDField(allow_null=True, help_text="For /api/jobs/ID and /api/jobs/ID/events")
    progress = serializers.FloatField(allow_null=True, help_text="0 to 1.")
    files = UploadedFileForm(many=True, help_text="While they can still change.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class PresignForm(serializers.Serializer[Any]):
    """One file to be put directly."""

    size = serializers.IntegerField(min_value=1, help_text="Bytes, exactly.")
    name = serializers.CharField(required=False, allow_blank=True, max_length=500, default="")
    sha256 = serializers.RegexField(r"\A[0-9a-fA-F]{64}\Z", required=False, allow_blank=True, default="")
    upload = serializers.UUIDField(required=False, allow_null=True, help_text="Add to this upload; else one is begun.")
    declaration = DeclarationForm(required=False)

    @classmethod
    def valid(cls, data: Any) -> dict[str, Any]:
        """:raises ValidationError:"""
        form = cls(data=data)
        form.is_valid(raise_exception=True)
        return dict(form.validated_data)


class PresignedForm(serializers.Serializer[Any]):
    """Where and how to put it. Send exactly these headers; then ``POST /api/uploads/ID/complete``."""

    id = serializers.UUIDField(help_text="Of the upload.")
    file = serializers.UUIDField()
    method = serializers.ChoiceField(choices=["PUT"])
    url = serializers.URLField()
    headers = serializers.DictField(child=serializers.CharField())
    expires_at = serializers.DateTimeField()
    max_bytes = serializers.IntegerField()
