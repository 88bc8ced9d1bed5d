"""Which sequence a series shows: rules, learned protocols, a person's overrides."""
