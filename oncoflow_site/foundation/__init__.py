"""What every room stands on: durable jobs, events, the outbox, encrypted object storage, keys, errors, clock and ids.

This package knows no clinical word and imports nothing of the other rooms.
"""
