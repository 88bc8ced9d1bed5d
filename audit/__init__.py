"""Who did what to which record: append-only rows without identity, and the compliance officer's view of them."""
