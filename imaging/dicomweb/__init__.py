"""DICOMweb (PS3.18): QIDO-RS and WADO-RS over de-identified instances and our own objects, STOW-RS in."""
