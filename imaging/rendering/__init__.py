"""Pictures of slices. Pure."""
