"""DICOM bytes and data sets. Pure: no database."""
