"""The filters of the audit view."""

from __future__ import annotations

from django import forms

from audit.codes import declared_codes
from audit.models import ActorType, Outcome

__all__ = ["AuditFilterForm"]


class AuditFilterForm(forms.Form):
    """Everything optional. Times are in the site's time zone."""

    since = forms.DateTimeField(
        required=False,
        label="From",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    until = forms.DateTimeField(
        required=False,
        label="Until",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    event = forms.ChoiceField(required=False, label="Event")
    actor_type = forms.ChoiceField(required=False, label="Kind of actor", choices=[("", "any"), *ActorType.choices])
    actor = forms.CharField(required=False, label="Actor id", max_length=150, strip=True)
    patient = forms.CharField(required=False, label="Patient id or pseudonym", max_length=40, strip=True)
    outcome = forms.ChoiceField(
        required=False, label="Outcome", choices=[("", "any"), *((str(value), text) for value, text in Outcome.choices)]
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        codes = declared_codes()
        self.fields["event"].choices = [("", "any"), *((code, f"{code}: {text}") for code, text in codes.items())]  # type: ignore[attr-defined]
