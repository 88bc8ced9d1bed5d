"""Audit event codes of this room."""

from audit.codes import declare_code

for _code, _meaning in {
    "report.draft": "A version of a report was drafted",
    "report.fail": "The drafting of a report failed for good",
    "report.hold": "A report was held for a radiologist",
    "report.issue": "A report was sealed and issued as preliminary",
    "report.sign": "A report was signed by a radiologist, or signing was refused",
    "report.view": "A report was seen",
    "report.pdf": "The PDF of a report was read",
    "signing.key_issued": "A personal signing key was issued",
    "signing.key_revoked": "A signing key was revoked",
    "signing.authority": "The signing authority or the organisation's seal was created",
}.items():
    declare_code(_code, _meaning)
