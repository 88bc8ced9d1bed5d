"""FHIR R4 resources that are sent: transaction, Observations, codes, naming systems."""
