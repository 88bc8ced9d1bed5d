"""Who may talk to the FHIR door and the REST interface: tokens and their scopes."""
