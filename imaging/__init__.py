"""DICOM in, de-identification, series, volumes, segmentations, measurement. Knows no models and no reports."""
