"""Grids in RAS millimetres, NIfTI, the bridge to SimpleITK, resampling. Pure: arrays in, arrays out."""
