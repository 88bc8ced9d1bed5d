"""What happens in the foundation and a room above may want to know at once, in the same transaction."""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["object_removed", "operator_acted"]

operator_acted = Signal()
"""A person moved a job or a delivery by hand. Sent with ``request``, ``verb`` ("retry", "cancel", "resend", "abandon"),

``resource`` ("job:ID", "delivery:ID") and ``moved`` (False: its state did not allow it), inside the move's transaction.
"""

object_removed = Signal()
"""The retention policy removed the bytes of a stored object. Sent with ``row``, ``kind`` (the policy's word) and ``days``,

inside the transaction.
"""
