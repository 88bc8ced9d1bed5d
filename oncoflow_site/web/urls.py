"""Addresses of the pages."""

from django.contrib.auth.views import LoginView, LogoutView, PasswordChangeDoneView, PasswordChangeView
from django.urls import path, re_path, reverse_lazy

from oncoflow_site.web import bringing, identities, panels, quarantine, reading, records, system, viewer, views

app_name = "web"
urlpatterns = [
    path("", views.home, name="home"),
    path("login/", LoginView.as_view(template_name="web/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path(
        "password/",
        PasswordChangeView.as_view(template_name="web/password.html", success_url=reverse_lazy("web:password-changed")),
        name="password",
    ),
    path(
        "password/changed/",
        PasswordChangeDoneView.as_view(template_name="web/password_changed.html"),
        name="password-changed",
    ),
    path("notices/<uuid:notice_id>/seen", views.notice_seen, name="notice-seen"),
    path("bring-in/", bringing.bring_in_page, name="bring-in"),
    path("quarantine/", quarantine.quarantine_page, name="quarantine"),
    path("quarantine/<uuid:instance_id>/<int:frame>.png", quarantine.picture, name="quarantine-picture"),
    path("quarantine/<uuid:instance_id>/release", quarantine.release, name="quarantine-release"),
    path("identities/", identities.identities_page, name="identities"),
    path("identities/find", identities.find, name="identity-find"),
    path("identities/conflicts/<uuid:conflict_id>/", identities.conflict_page, name="identity-conflict"),
    path("identities/conflicts/<uuid:conflict_id>/decide", identities.decide, name="identity-decide"),
    path("identities/patients/<uuid:patient_id>/", identities.patient_identity, name="patient-identity"),
    path("identities/patients/<uuid:patient_id>/confirm", identities.confirm, name="identity-confirm"),
    path("identities/patients/<uuid:patient_id>/merge", identities.make_merge, name="identity-merge"),
    path("identities/merges/<uuid:merge_id>/", identities.merge_page, name="merge"),
    path("identities/merges/<uuid:merge_id>/<str:step>", identities.merge_step, name="merge-step"),
    path("patients/<uuid:patient_id>/", records.patient_page, name="patient"),
    path("studies/<uuid:study_id>/", records.study_page, name="study"),
    path("studies/<uuid:study_id>/outline", records.outline, name="outline"),
    path("studies/<uuid:study_id>/panel/fuse", panels.fuse, name="panel-fuse"),
    path("studies/<uuid:study_id>/panel/cancel", panels.cancel, name="panel-cancel"),
    path("studies/<uuid:study_id>/panel/again", panels.again, name="panel-again"),
    path("documents/<uuid:document_id>/", records.document_page, name="document"),
    path("reports/<uuid:report_id>/", reading.report_page, name="report"),
    path("reports/<uuid:report_id>/sign", reading.sign, name="sign"),
    path("system/", system.system_page, name="system"),
    path("system/deliveries/<uuid:delivery_id>/resend", system.resend_delivery, name="resend"),
    path("system/endpoints/<uuid:endpoint_id>/test", system.test_endpoint, name="endpoint-test"),
    path("system/endpoints/<uuid:endpoint_id>/backfill", system.backfill_endpoint, name="endpoint-backfill"),
    path("system/jobs/<uuid:job_id>/retry", system.retry_job, name="retry"),
    path("viewer", viewer.viewer),
    re_path(r"^viewer/(?P<path>.*)$", viewer.viewer, name="viewer"),
    path("favicon.ico", views.favicon, name="favicon"),
    path("health/live", views.health_live, name="health-live"),
    path("health/ready", views.health_ready, name="health-ready"),
]
