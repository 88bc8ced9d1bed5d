"""The pages that show several rooms; loads the workflow, because every room is ready by then."""

from importlib import import_module

from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "oncoflow_site.web"
    label = "web"
    verbose_name = "Web pages"

    def ready(self) -> None:
        import_module("oncoflow_site.api.audit_codes")
        import_module("oncoflow_site.web.audit_codes")
        import_module("oncoflow_site.workflow").install()
