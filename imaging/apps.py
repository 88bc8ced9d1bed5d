"""Application configuration of the imaging room."""

import logging
import warnings
from functools import partial

from django.apps import AppConfig


class ImagingConfig(AppConfig):
    """Its jobs are collected from ``imaging.tasks`` by the foundation."""

    name = "imaging"
    label = "imaging"
    verbose_name = "Imaging"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Declare events and jobs, so that every process knows them; keep values out of the logs."""
        # pydicom quotes the values it doubts, in warnings and in its log: names and numbers of patients.
        # So does highdicom, with the name of who is in the source images.
        warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)(\..*)?$")
        logging.getLogger("pydicom").addFilter(lambda record: False)
        from clinical.patients import moving
        from imaging import audit_codes, checks, events, tasks  # noqa: F401
        from imaging.archive.retention import originals
        from imaging.intake.upload_job import expire_due
        from oncoflow_site.foundation import janitors, retention

        for label, name in (("imaging.Study", "studies"), ("imaging.PriorStudy", "earlier studies asked for")):
            moving.moves_with_patient(label, name=name)
        for kind, quarantined in (("dicom-original", False), ("dicom-quarantined", True)):
            retention.define(kind, partial(originals, quarantined=quarantined))
        janitors.register("expired uploads", expire_due, every_s=600.0)
