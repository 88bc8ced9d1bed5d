"""The life of a panel: convened, its experts run, concluded, cancelled, fused anew by a person."""
