"""The Study Instance UID that an order announces gets the blind index that the study itself has.

The UID is read from the order's encrypted identity. Where the key of its patient was destroyed nothing can be read, and
nothing will be matched any more: the index goes. Without a keyset the migration stops, and nothing is changed.
"""

from django.db import migrations

from clinical.vault import dicom_uid_index, open_json
from oncoflow_site.foundation.errors import KeyDestroyed


def recompute(apps, schema_editor):
    orders = apps.get_model("clinical", "Order").objects
    rows = orders.exclude(study_uid_index=None).values_list("pk", "key_subject", "ciphertext")
    for pk, key_subject, ciphertext in list(rows):
        try:
            identity = open_json(key_subject, ciphertext, context=f"order:{pk}")
        except KeyDestroyed:
            identity = {}
        index = dicom_uid_index(str(identity.get("study_instance_uid") or ""))
        orders.filter(pk=pk).update(study_uid_index=index)


class Migration(migrations.Migration):
    dependencies = [
        ("clinical", "0003_document_date_precision"),
        ("foundation", "0003_job_lock"),
    ]

    operations = [migrations.RunPython(recompute, migrations.RunPython.noop)]
