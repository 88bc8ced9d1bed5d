"""Audit event codes of the FHIR and HL7 v2 doors."""

from __future__ import annotations

from audit.codes import declare_code

__all__: list[str] = []

declare_code("hl7.receive", "An HL7 v2 message was received and stored")
declare_code("hl7.refuse", "An HL7 v2 message was refused")
declare_code("hl7.process", "A received HL7 v2 message was processed")
declare_code("hl7.retry", "A person asked for a message to be processed again")
declare_code("fhir.create", "A FHIR resource was received")
declare_code("fhir.read", "A FHIR resource was read")
declare_code("fhir.search", "FHIR resources were searched")
declare_code("fhir.refuse", "A FHIR request was refused")
declare_code("report.deliver", "A report was handed to the outbox for delivery")
declare_code("token.create", "A bearer token was made")
declare_code("token.revoke", "A bearer token was revoked")
declare_code("peer.change", "A peer or an endpoint was configured")
declare_code("endpoint.test", "Somebody tested an endpoint")
declare_code("endpoint.backfill", "Issued reports were queued for an endpoint")
