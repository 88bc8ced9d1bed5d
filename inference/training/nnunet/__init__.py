"""Training of an nnU-Net, its operating point, and the adoption of models trained elsewhere."""
