"""How models do on the cases of this hospital: case evaluations, drift, learned weights, charts."""
