"""The demo: synthetic patients played through the whole service. Nothing in the production path imports it."""

from django.apps import AppConfig


class DemoConfig(AppConfig):
    name = "oncoflow_site.demo"
    label = "demo"
    verbose_name = "Demo"
