"""From several experts' probabilities to one mask; their agreement, and the gate."""
