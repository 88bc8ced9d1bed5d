"""The vocabulary of BraTS: regions, labels, sequences, and which sequences show which regions. Pure."""
