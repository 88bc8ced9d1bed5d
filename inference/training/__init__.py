"""Training from a dataset folder in nnU-Net's raw layout: a hospital's own cases or simulated ones alike."""
