"""Files brought in by a person, a program or a bucket: declared, staged, then filed through `imaging.ingest`."""
