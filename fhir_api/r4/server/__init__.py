"""The FHIR R4 server below ``/fhir/``: read, search, create, CapabilityStatement."""
