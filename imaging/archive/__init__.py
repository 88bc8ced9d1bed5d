"""From the bytes of an instance to the rows of patient, study and series."""
