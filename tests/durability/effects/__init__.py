"""An application whose jobs leave countable effects."""
