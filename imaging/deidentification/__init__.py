"""De-identification (PS3.15 Annex E): `engine` works on one data set, `rules` holds the table, `study` does the bookkeeping."""
