"""SAM 2 as an expert: it prompts itself from image evidence, or takes a person's box and clicks."""

from inference.experts.sam.expert import SamExpert

__all__ = ["SamExpert"]
