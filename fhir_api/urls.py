"""Addresses below /fhir/. No trailing slashes: FHIR has none."""

from __future__ import annotations

from django.urls import path, re_path

from fhir_api.r4.server.views import CreateSearchView, MetadataView, ReadView, SearchView, UnknownView

app_name = "fhir"

urlpatterns = [
    path("metadata", MetadataView.as_view(), name="metadata"),
    path("<slug:kind>", CreateSearchView.as_view(), name="type"),
    path("<slug:kind>/_search", SearchView.as_view(), name="search"),
    path("<slug:kind>/<slug:logical_id>", ReadView.as_view(), name="read"),
    path("<slug:kind>/<slug:logical_id>/_history/<slug:version>", ReadView.as_view(), name="vread"),
    re_path(r"^.*$", UnknownView.as_view(), name="unknown"),
]
