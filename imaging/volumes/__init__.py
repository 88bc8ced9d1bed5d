"""From de-identified series to co-registered volumes, and back to native space."""
