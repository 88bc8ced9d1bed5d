"""From an issued report version to the receivers' endpoints."""
