"""``manage.py verify_pdf FILE --ca PEM``: check a report's signature against one authority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from oncoflow_site.foundation.errors import UserVisibleError
from reports.signing.keyring import trust_pem
from reports.signing.verify import verify


class Command(BaseCommand):
    """Exit status 0 only for a PDF that is signed, intact, whole and trusted."""

    help = "Verify the signature of a report PDF against one authority alone."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: CommandParser) -> None:
        """``FILE [--ca PEM]``."""
        parser.add_argument("file")
        parser.add_argument(
            "--ca", metavar="PEM", help="certificate to trust; by default this installation's authority"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify and print the result."""
        try:
            pdf = Path(options["file"]).read_bytes()
            authority = Path(options["ca"]).read_bytes() if options["ca"] else trust_pem().encode("ascii")
            result = verify(pdf, authority)
        except OSError as error:
            raise CommandError(f"cannot read {error.filename}: {error.strerror}") from None
        except ValueError as error:
            raise CommandError(str(error)) from None
        except UserVisibleError as error:
            raise CommandError(str(error)) from None
        if not result.valid:
            raise CommandError("NOT VALID: " + "; ".join(result.problems or ("unknown problem",)))
        self.stdout.write(
            f"VALID: signed by {result.signer} ({result.signer_unit}) at {result.signed_at:%Y-%m-%d %H:%M:%S %Z}, "
            f"reason: {result.reason}"
        )
