"""The versions of a report: drafted, released or held, signed off."""
