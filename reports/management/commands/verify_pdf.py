"""``manage.py verify_pdf FILE... --ca PEM``: check the signatures of reports against one authority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from oncoflow_site.foundation.errors import UserVisibleError
from reports.signing.keyring import trust_pem
from reports.signing.verify import verify


class Command(BaseCommand):
    """Exit status 0 only when every PDF is signed, intact, whole and trusted."""

    help = "Verify the signature of a report PDF against one authority alone."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: CommandParser) -> None:
        """``FILE... [--ca PEM]``."""
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
        parser.add_argument(
            "--ca", metavar="PEM", help="certificate to trust; by default this installation's authority"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify each and print the results."""
        try:
            authority = Path(options["ca"]).read_bytes() if options["ca"] else trust_pem().encode("ascii")
        except OSError as error:
            raise CommandError(f"cannot read {error.filename}: {error.strerror}") from None
        except UserVisibleError as error:
            raise CommandError(str(error)) from None
        files: list[Path] = options["files"]
        wrong = []
        for file in files:
            try:
                self.stdout.write(f"{file.name}: {self._verified(file, authority)}")
            except CommandError as error:
                wrong.append(f"{file.name}: {error}")
        if wrong:
            raise CommandError("\n".join([*wrong, f"{len(wrong)} of {len(files)} are not valid"]))

    def _verified(self, file: Path, authority: bytes) -> str:
        try:
            result = verify(file.read_bytes(), authority)
        except OSError as error:
            raise CommandError(f"cannot read it: {error.strerror}") from None
        except (ValueError, UserVisibleError) as error:
            raise CommandError(str(error)) from None
        if not result.valid:
            raise CommandError("NOT VALID: " + "; ".join(result.problems or ("unknown problem",)))
        return (
            f"VALID: signed by {result.signer} ({result.signer_unit}) at {result.signed_at:%Y-%m-%d %H:%M:%S %Z}, "
            f"reason: {result.reason}"
        )
