"""Registration, MNI152, brain extraction, co-registration, intensity normalisation. Numbers only."""
