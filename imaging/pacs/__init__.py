"""A PACS as the source of a patient's earlier studies: over DIMSE (C-FIND, C-MOVE) or over DICOMweb (QIDO-RS, WADO-RS)."""
