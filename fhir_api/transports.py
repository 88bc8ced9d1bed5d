"""Transports registered with the outbox."""


def register() -> None:
    """Register the transports."""
