"""Facts of the room as typed schemas: measured, compared, prepared; who made an outline; what was not assessed. No Django."""
