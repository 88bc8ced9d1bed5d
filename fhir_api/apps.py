"""Application configuration of the FHIR and HL7 v2 doors."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["FhirApiConfig"]


class FhirApiConfig(AppConfig):
    """Registers jobs, events and outbox transports."""

    name = "fhir_api"
    label = "fhir_api"
    verbose_name = "FHIR and HL7 v2"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Declare events, register the jobs and the transports with the outbox."""
        from clinical.patients import moving
        from fhir_api.delivery import transports

        moving.moves_with_patient("fhir_api.Hl7Message", name="HL7 messages")
        moving.moves_with_patient("fhir_api.ReceivedResource", name="FHIR resources as received")
        transports.register()
