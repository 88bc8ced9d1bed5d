"""Training of a small vision-language model."""
