"""The disclosed content of one issued report, before it is written as FHIR or HL7 v2."""
