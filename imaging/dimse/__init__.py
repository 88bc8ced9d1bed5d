"""The DICOM network door: C-ECHO and C-STORE as a service class provider (PS3.4 Annexes A and B, PS3.7, PS3.8)."""
