"""Every address of the service."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("audit/", include("audit.urls")),
    path("dicomweb/", include("imaging.dicomweb.urls")),
    path("fhir/", include("fhir_api.urls")),
    path("api/", include("oncoflow_site.api.urls")),
    path("", include("oncoflow_site.web.urls")),
]
