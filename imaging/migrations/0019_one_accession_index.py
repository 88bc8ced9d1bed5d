"""The accession number of a study gets the blind index that its order has: a match is a join from now on.

The number is read from the study's encrypted identity. Where the key was destroyed nothing can be read, and nothing will be
matched any more: the index goes. Without a keyset the migration stops, and nothing is changed.
"""

from django.db import migrations

from imaging.identifiers import accession_index, open_study
from oncoflow_site.foundation.errors import KeyDestroyed


def recompute(apps, schema_editor):
    studies = apps.get_model("imaging", "Study").objects
    rows = studies.exclude(accession_index="").values_list("pk", "key_subject", "ciphertext")
    for pk, key_subject, ciphertext in list(rows):
        try:
            index = accession_index(open_study(key_subject, bytes(ciphertext)).accession)
        except KeyDestroyed:
            index = ""
        studies.filter(pk=pk).update(accession_index=index)


class Migration(migrations.Migration):
    dependencies = [
        ("clinical", "0004_one_index_of_a_study_uid"),
        ("imaging", "0018_source_voxels_and_day"),
    ]

    operations = [migrations.RunPython(recompute, migrations.RunPython.noop)]
