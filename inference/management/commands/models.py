"""The model registry on the command line: fetch, add, verify, train, register; standings and fusion weights."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import services as audit
from inference.experts.errors import ExpertError
from inference.experts.factory import KINDS
from inference.models import ModelStatus, ModelVersion
from inference.quality import learned_weights
from inference.registry import models, standing
from oncoflow_site.foundation.errors import UserVisibleError


class Command(BaseCommand):
    """``manage.py models list|verify|register|pull|add|train|status|weights``"""

    help = "List, verify, fetch, add, train and register model versions; set their standing; learn fusion weights."
    requires_system_checks = ["foundation"]

    def add_arguments(self, parser: CommandParser) -> None:
        """Sub-commands."""
        commands = parser.add_subparsers(dest="command", required=True)
        commands.add_parser("list", help="Every registered version with its standing and Dice.")
        commands.add_parser("verify", help="Compare the weights of panel and registry with their recorded SHA-256.")
        commands.add_parser("register", help="Register the panel's weights and derive their standing.")
        pull = commands.add_parser("pull", help="Fetch weights from a named place, if they have the named SHA-256.")
        pull.add_argument("source", help="https://... of a zip or tar archive, or hf:owner/name@revision")
        pull.add_argument("--sha256", required=True, help="of the archive; of a repository: over its files' hashes")
        pull.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
        self._add_arguments(commands.add_parser("add", help="Describe and register a folder of published weights."))
        self._train_arguments(commands.add_parser("train", help="Train or fine-tune on a dataset folder and register."))
        status = commands.add_parser("status", help="Set the standing of a registered version.")
        status.add_argument("name")
        status.add_argument("version")
        status.add_argument("standing", choices=ModelStatus.values)
        weights = commands.add_parser("weights", help="Learn the weights of weighted fusion from reviewed cases.")
        for one in (status, weights):
            one.add_argument("--why", required=True)
            one.add_argument("--who", required=True, help="User name of whoever decided.")

    @staticmethod
    def _add_arguments(add: CommandParser) -> None:
        add.add_argument("name")
        add.add_argument("--kind", choices=KINDS, required=True)
        add.add_argument("--folder", type=Path, required=True)
        add.add_argument("--version", dest="model_version", default="1.0.0")
        add.add_argument("--trained-on", default="not stated", help="What it has seen, in words for its users.")
        add.add_argument("--pin", default=None, help="SHA-256 that its model.json must have.")
        add.add_argument("--folds", default="", help="nnU-Net: for example 0,1,2; all that are there if not given.")
        add.add_argument("--checkpoint", default="checkpoint_final.pth", help="nnU-Net: its file in each fold.")
        add.add_argument("--mirroring", action="store_true", help="nnU-Net: flips at prediction, eight times the work.")
        add.add_argument(
            "--set", action="append", default=[], metavar="KEY=JSON", help="A further entry of model.json."
        )

    @staticmethod
    def _train_arguments(train: CommandParser) -> None:
        train.add_argument("dataset", type=Path, help="nnU-Net raw dataset folder with held-out cases in imagesTs")
        train.add_argument("--out", type=Path, required=True)
        train.add_argument("--expert", choices=KINDS, default="nnunet")
        train.add_argument(
            "--from", dest="start_from", default="", help="Fine-tune this registered NAME or NAME:VERSION."
        )
        train.add_argument("--name", default="", help="Name of the result; that of --from if not given.")
        train.add_argument("--version", dest="model_version", required=True, help="A version that is not taken yet.")
        train.add_argument("--trained-on", required=True, help="What it will have seen, in words for its users.")
        train.add_argument("--minutes", type=float, default=30.0)
        train.add_argument("--limit", type=int, default=None, help="Evaluate on the first N held-out cases only.")
        train.add_argument("--threads", type=int, default=int(settings.ONCOFLOW_EXPERT_THREADS))
        train.add_argument(
            "--set", action="append", default=[], metavar="OPTION=VALUE", help="An option of the training."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the sub-command; exit status 1 with the reason when it cannot be done."""
        with audit.acting_as(audit.Actor.system("models command")):
            try:
                getattr(self, f"_{options['command']}")(Namespace(**options))
            except (UserVisibleError, ExpertError) as error:
                raise CommandError(str(error)) from error

    def _list(self, options: Namespace) -> None:
        for row in ModelVersion.objects.all():
            regions = row.evaluation.get("regions", {})
            dice = " ".join(f"{name} {float(one['mean']):.3f}" for name, one in regions.items() if "mean" in one)
            demo = " DEMO" if row.demo_only else ""
            self.stdout.write(f"{row.name} {row.version} {row.status}{demo}  Dice {dice or 'not evaluated'}")
            self.stdout.write(f"    {row.architecture}; sha256 {row.sha256}")
            self.stdout.write(f"    {row.status_reason}")
            for warning in models.warnings(row):
                self.stdout.write(self.style.WARNING(f"    WARNING: {warning}"))

    def _verify(self, options: Namespace) -> None:
        wanted = {str(Path(spec["weights_dir"])): spec.get("sha256") for spec in models.panel_specs()}
        rows = ModelVersion.objects.exclude(status=ModelStatus.DISABLED).order_by("registered_at")
        for row in rows:
            wanted.setdefault(row.weights_dir, row.sha256)
        bad = 0
        for folder, pin in wanted.items():
            try:
                models.verify(Path(folder), pin)
                self.stdout.write(f"{Path(folder).name}: ok")
            except ExpertError as error:
                bad += 1
                self.stdout.write(f"{error}")
        if bad:
            raise CommandError(f"{bad} of {len(wanted)} weights folders are missing or altered.")

    def _register(self, options: Namespace) -> None:
        unusable = [name for name, row in models.register_panel().items() if row is None]
        self._list(options)
        if unusable:
            raise CommandError(f"No usable weights: {', '.join(unusable)}. `manage.py models verify` says why.")

    def _pull(self, options: Namespace) -> None:
        from inference.registry.download import pull

        out = pull(options.source, sha256=options.sha256, out=options.out, tell=self.stdout.write)
        self.stdout.write(f"{out}: fetched and verified. `manage.py models add` takes it into the registry.")

    def _add(self, options: Namespace) -> None:
        from inference.registry.package_weights import describe, write_model_json_for

        try:
            folds = [int(part) for part in options.folds.split(",") if part.strip()]
            more = {key: json.loads(value) for key, _, value in (one.partition("=") for one in options.set)}
        except ValueError as error:
            raise CommandError("--folds takes numbers, --set takes KEY=JSON.") from error
        folder: Path = options.folder.absolute()
        description = describe(
            folder,
            name=options.name,
            kind=options.kind,
            version=options.model_version,
            trained_on=options.trained_on,
            folds=folds,
            mirroring=options.mirroring,
            checkpoint=options.checkpoint,
            options=more,
        )
        digest = write_model_json_for(folder, description, pin=options.pin)
        self._tell_entry(models.register(folder, options.kind, digest))

    def _train(self, options: Namespace) -> None:
        from inference.training.tune import Tuning, tune

        base: ModelVersion | None = None
        if options.start_from:
            name, _, version = options.start_from.partition(":")
            rows = ModelVersion.objects.filter(name=name, **({"version": version} if version else {}))
            base = rows.order_by("-registered_at").first()
            if base is None or base.kind != options.expert:
                raise CommandError(f"No {options.expert} model {options.start_from} is registered.")
            models.verify(Path(base.weights_dir), base.sha256)
        name = options.name or (base.name if base else f"{options.expert}-own")
        if ModelVersion.objects.filter(name=name, version=options.model_version).exists():
            raise CommandError(f"{name} {options.model_version} is registered already: give another --version.")
        folder = tune(
            Tuning(
                dataset=options.dataset,
                out=options.out.absolute(),
                expert=options.expert,
                name=name,
                version=options.model_version,
                trained_on=options.trained_on,
                start_from=Path(base.weights_dir) if base else None,
                minutes=options.minutes,
                threads=options.threads,
                limit=options.limit,
                extra=tuple(options.set),
            )
        )
        self._tell_entry(models.register(folder, options.expert))

    def _status(self, options: Namespace) -> None:
        rows = ModelVersion.objects.filter(name=options.name, version=options.version)
        row = rows.order_by("-registered_at").first()
        if row is None:
            raise CommandError("There is no such model version; `manage.py models list` shows them.")
        standing.set_status(row, options.standing, who=options.who, why=options.why)
        self.stdout.write(f"{row.name} {row.version} is now {row.status}.")

    def _weights(self, options: Namespace) -> None:
        made = learned_weights.learn(who=options.who, why=options.why)
        self.stdout.write(f"Fusion weights version {made.version}; {made.formula}")
        for one in made.weights.values():
            for region, found in one["regions"].items():
                text = f"{found['weight']:.3f} from {found['cases']} reviewed cases"
                self.stdout.write(f"    {one['name']} {one['version']} {region}: {text}")

    def _tell_entry(self, row: ModelVersion) -> None:
        """What to put into ONCOFLOW_PANEL for this version to answer."""
        self.stdout.write(f"{row.name} {row.version} is registered as {row.status}: {row.status_reason}")
        for warning in models.warnings(row):
            self.stdout.write(self.style.WARNING(f"WARNING: {warning}"))
        entry = {"name": row.name, "kind": row.kind, "weights_dir": row.weights_dir, "sha256": row.sha256}
        self.stdout.write("Its entry in ONCOFLOW_PANEL:")
        self.stdout.write(json.dumps(entry))
