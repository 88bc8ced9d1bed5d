"""Addresses of the REST interface, under ``/api/``."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from oncoflow_site.api import deidentification, identities, jobs, panels, refine, schema, studies, upload_bytes, uploads

__all__ = ["schema"]  # imported so that the schema knows bearer tokens

app_name = "api"
urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="api:schema"), name="docs"),
    path("studies/", studies.StudyList.as_view(), name="studies"),
    path("studies/<uuid:study_id>/", studies.StudyDetail.as_view(), name="study"),
    path(
        "studies/<uuid:study_id>/deidentification",
        deidentification.DeidentificationReports.as_view(),
        name="deidentification",
    ),
    path("studies/<uuid:study_id>/volumes/<str:sequence>.nii.gz", studies.VolumeFile.as_view(), name="volume"),
    path("studies/<uuid:study_id>/refine", refine.Refine.as_view(), name="refine"),
    path("studies/<uuid:study_id>/segmentations/", refine.Segmentations.as_view(), name="segmentations"),
    path(
        "studies/<uuid:study_id>/segmentations/<uuid:segmentation_id>.nii.gz",
        studies.SegmentationFile.as_view(),
        name="segmentation",
    ),
    path("studies/<uuid:study_id>/slices/<str:plane>/<int:index>.png", studies.SlicePicture.as_view(), name="slice"),
    path("studies/<uuid:study_id>/panel/", panels.Panel.as_view(), name="panel"),
    path("studies/<uuid:study_id>/panel/fuse", panels.PanelFuse.as_view(), name="panel-fuse"),
    path("studies/<uuid:study_id>/panel/cancel", panels.PanelCancel.as_view(), name="panel-cancel"),
    path("studies/<uuid:study_id>/panel/again", panels.PanelAgain.as_view(), name="panel-again"),
    path("studies/<uuid:study_id>/events", jobs.study_events, name="study-events"),
    path("reports/<uuid:report_id>/versions/<int:number>.pdf", studies.ReportPdf.as_view(), name="report-pdf"),
    path(
        "reports/<uuid:report_id>/versions/<int:number>.json",
        studies.ReportVersionContent.as_view(),
        name="report-content",
    ),
    path("documents/<uuid:document_id>/text", studies.DocumentText.as_view(), name="document-text"),
    path("identities/", identities.Identities.as_view(), name="identities"),
    path("identities/conflicts/<uuid:conflict_id>", identities.Conflict.as_view(), name="identity-conflict"),
    path("identities/merges/", identities.Merges.as_view(), name="merges"),
    path("identities/merges/<uuid:merge_id>", identities.Merge.as_view(), name="merge"),
    path("identities/merges/<uuid:merge_id>/approve", identities.MergeApprove.as_view(), name="merge-approve"),
    path("identities/merges/<uuid:merge_id>/refuse", identities.MergeRefuse.as_view(), name="merge-refuse"),
    path("identities/merges/<uuid:merge_id>/unmerge", identities.MergeUndo.as_view(), name="merge-unmerge"),
    path("identities/patients/<uuid:patient_id>/confirm", identities.PatientConfirm.as_view(), name="patient-confirm"),
    path("uploads/", uploads.Uploads.as_view(), name="uploads"),
    path("uploads/presign", upload_bytes.Presign.as_view(), name="presign"),
    path("uploads/put/<str:token>", upload_bytes.SignedPut.as_view(), name="upload-put"),
    path("uploads/<uuid:upload_id>/", uploads.UploadDetail.as_view(), name="upload"),
    path("uploads/<uuid:upload_id>/complete", uploads.Complete.as_view(), name="upload-complete"),
    path("uploads/<uuid:upload_id>/files/", upload_bytes.Files.as_view(), name="upload-files"),
    path("uploads/<uuid:upload_id>/files/<uuid:file_id>", upload_bytes.FileDetail.as_view(), name="upload-file"),
    path("jobs/<uuid:job_id>", jobs.JobDetail.as_view(), name="job"),
    path("jobs/<uuid:job_id>/events", jobs.job_events, name="job-events"),
]
