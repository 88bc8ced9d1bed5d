"""Background jobs of the doors."""
