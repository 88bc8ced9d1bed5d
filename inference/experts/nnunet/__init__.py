"""nnU-Net as an expert, through its own nnUNetPredictor in this process."""

from inference.experts.nnunet.expert import NnUNetExpert

__all__ = ["NnUNetExpert"]
