"""The sentences of a report, each with its sources."""
