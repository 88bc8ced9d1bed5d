"""What the trainings share: data set, preprocessing, loop, checkpoints, export."""
