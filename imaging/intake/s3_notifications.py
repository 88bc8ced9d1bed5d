"""S3 event notifications through SQS (https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html).

A message is only a hint where to look: which objects are there, the bucket itself says. It is deleted once what it led to is
written down; delivered twice, or out of order, it does no harm.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote_plus

__all__ = ["S3Events"]


class S3Events:
    """One queue.

    :param location: names below it are watched.
    """

    def __init__(self, url: str, *, location: str = "", endpoint: str | None = None, region: str | None = None) -> None:
        import boto3

        self._url = url
        self._prefix = f"{location.strip('/')}/" if location.strip("/") else ""
        self._client = boto3.client("sqs", endpoint_url=endpoint, region_name=region)

    def receive(self, wait_s: int) -> tuple[set[str], list[str]]:
        """Folders in which something was created (each ends with a slash or is empty), and receipts for `done`."""
        answer = self._client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=max(0, min(20, wait_s))
        )
        folders, receipts = set(), []
        for message in answer.get("Messages", ()):
            receipts.append(message["ReceiptHandle"])
            for key in created_keys(message["Body"]):
                if key.startswith(self._prefix):
                    folder, slash, _ = key[len(self._prefix) :].rpartition("/")
                    folders.add(f"{folder}{slash}")
        return folders, receipts

    def done(self, receipts: list[str]) -> None:
        """Delete messages."""
        for start in range(0, len(receipts), 10):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt}
                for number, receipt in enumerate(receipts[start : start + 10])
            ]
            self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)


def created_keys(body: str) -> list[str]:
    """Keys that a message says were created; none for anything that is no such message. SNS may have wrapped it."""
    try:
        told: Any = json.loads(body)
        if isinstance(told, dict) and isinstance(told.get("Message"), str):
            told = json.loads(told["Message"])
        return [
            unquote_plus(one["s3"]["object"]["key"])
            for one in told.get("Records", ())
            if str(one.get("eventName", "")).removeprefix("s3:").startswith("ObjectCreated:")
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
