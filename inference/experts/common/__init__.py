"""What several kinds of experts share: intensities, slices, islands, the FLAIR baseline, memory."""
