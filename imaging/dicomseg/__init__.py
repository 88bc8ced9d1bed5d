"""Our segmentations as DICOM Segmentation objects (PS3.3 A.51), on the grid of the series they were drawn for."""

from imaging.dicomseg.encode import Identity, NotEncodable, encode
from imaging.dicomseg.publish import publish_segmentations

__all__ = ["Identity", "NotEncodable", "encode", "publish_segmentations"]
