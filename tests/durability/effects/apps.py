"""Configuration: the jobs of the foundation get short leases, so that the tests need not wait a minute."""

from dataclasses import replace

from django.apps import AppConfig


class EffectsConfig(AppConfig):
    """The counting jobs."""

    name = "tests.durability.effects"
    label = "effects"

    def ready(self) -> None:
        """Register jobs and followers."""
        from oncoflow_site.foundation import job_kinds, outbox  # noqa: F401
        from tests.durability.effects import tasks  # noqa: F401

        job_kinds._kinds["foundation.deliver"] = replace(
            job_kinds._kinds["foundation.deliver"], lease_s=1.5, max_attempts=50
        )
