"""What `--once` checks: the values of every step, not that something is there."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oncoflow_site.demo import orders
from oncoflow_site.demo.display import Step, StepFailed
from oncoflow_site.demo.orders import VISITS
from oncoflow_site.demo.play import Play
from oncoflow_site.demo.truth import LabelMap, change_percent, dice_per_region, result_of_region

WT_DICE_AT_LEAST = 0.85
CHANGE_WITHIN = 10.0  # percentage points
REGIONS = ("ET", "TC", "WT")


def expect(condition: bool, otherwise: str) -> None:
    """Raises `StepFailed` with ``otherwise`` unless ``condition`` holds."""
    if not condition:
        raise StepFailed(otherwise)


def check(play: Play) -> None:
    """Every check, each as a step of the display."""
    checks: list[tuple[str, Callable[[Play, Step], None]]] = [
        ("Check: outlines against the simulator's truth", outlines),
        ("Check: change against the simulator's truth", change),
        ("Check: the gate", gate),
        ("Check: every sentence cites, every citation is exact", narrative),
        ("Check: signatures, and one flipped byte", signatures),
        ("Check: the EMR holds one of each version", deliveries),
        ("Check: access", access),
        ("Check: the audit record", audit_record),
    ]
    for title, function in checks:
        with play.display.step(title) as step:
            function(play, step)


def outlines(play: Play, step: Step) -> None:
    """Dice of the consensus; WT of the undisturbed studies at least 0.85."""
    for visit in VISITS:
        detail = play.studies[visit.key]
        chosen = [one for one in detail["segmentations"] if one["kind"] == "consensus"][-1]
        found = LabelMap.read(play.reader.bytes(f"/api/studies/{detail['id']}/segmentations/{chosen['id']}.nii.gz"))
        scores = dice_per_region(found, LabelMap.load(play.simulated[visit.key].truth_path))
        step.say(f"{visit.key}: " + " ".join(f"{name} {scores[name]:.3f}" for name in REGIONS))
        if visit.difficulty == "clean":
            expect(
                scores["WT"] >= WT_DICE_AT_LEAST,
                f"Dice of WT in {visit.key} is {scores['WT']:.3f}, below {WT_DICE_AT_LEAST}",
            )


def change(play: Play, step: Step) -> None:
    """Change of each region within 10 percentage points; the lesion that disappeared is reported as gone."""
    comparison = _comparison(play)
    before, after = (LabelMap.load(play.simulated[key].truth_path) for key in ("anna-1", "anna-2"))
    for region in REGIONS:
        known = change_percent(before.volume_mm3(region), after.volume_mm3(region))
        found = result_of_region(comparison, region)
        if known is None or found is None:
            raise StepFailed(f"Change of {region} was not assessed.")
        step.say(f"{region} {found:+.1f} % (truth {known:+.1f} %)")
        expect(
            abs(found - known) <= CHANGE_WITHIN,
            f"Change of {region} is {found:+.1f} %, the truth is {known:+.1f} %: more than {CHANGE_WITHIN:.0f} points apart.",
        )
    gone = [one for one in comparison["lesions"] if one["status"] == "gone"]
    known_gone = play.simulated["anna-2"].lesions_gone
    step.say(f"{len(gone)} lesion gone (truth {known_gone}), response {comparison['response']['category']}")
    expect(len(gone) == known_gone, f"{len(gone)} lesions are reported as gone, {known_gone} disappeared.")


def _comparison(play: Play) -> dict[str, Any]:
    prior = play.studies["anna-1"]["id"]
    found = [one for one in play.studies["anna-2"]["comparisons"] if one.get("prior_study_id") == prior]
    expect(len(found) == 1, f"The second study has {len(found)} comparisons with the first, not one.")
    return dict(found[0])


def gate(play: Play, step: Step) -> None:
    """The undisturbed follow-up is issued by itself, the hard image is held because agreement is low."""
    for key, bands in (("anna-2", {"issue"}), ("bernd-1", {"hold", "manual"})):
        panel = play.studies[key]["panel"]
        voters = [one["name"] for one in panel["experts"] if one["role"] == "voter"]
        band, agreement = panel["gate"]["band"], panel["gate"]["a"]
        told = "not assessed" if agreement is None else f"{agreement:.3f} in {panel['agreement']['region']}"
        step.say(f"{key}: {len(voters)} voters, agreement {told}: {band}")
        expect(len(panel["experts"]) == 3, f"{len(panel['experts'])} experts took part in {key}, not 3.")
        expect(band in bands, f"The gate says {band} for {key}, expected {' or '.join(sorted(bands))}.")
    expect(play.studies["bernd-1"]["report"]["state"] == "held", "The hard study's report is not held.")


def narrative(play: Play, step: Step) -> None:
    """Every sentence has a source; every cited span equals the stored text, and is the patient's own."""
    own = {"anna-2": orders.ANNA, "bernd-1": orders.BERND}
    cited = sentences = 0
    for key, person in own.items():
        report = play.studies[key]["report"]["id"]
        number = max(one["number"] for one in play.studies[key]["report_versions"])
        content = play.reader.json(f"/api/reports/{report}/versions/{number}.json")
        texts = [text for _, whose, _, _, text, _ in orders.DOCUMENTS if whose is person]
        for sentence in content["narrative"]:
            sentences += 1
            expect(bool(sentence["citations"]), f"A sentence of {key} cites nothing: {sentence['text'][:60]}")
            for citation in sentence["citations"]:
                if "document_id" not in citation:
                    continue
                stored = play.reader.bytes(f"/api/documents/{citation['document_id']}/text")
                span = stored[citation["start"] : citation["end"]]
                expect(span.decode("utf-8") == citation["text"], f"A citation of {key} differs from the stored text.")
                expect(any(citation["text"] in text for text in texts), f"{key} cites another patient's document.")
                cited += 1
    expect(cited >= 4, f"Only {cited} spans of documents are cited.")
    step.say(f"{sentences} sentences, {cited} exact citations of the patient's own documents")


def signatures(play: Play, step: Step) -> None:
    """Each PDF verifies against the demo's authority alone; with one byte flipped it does not."""
    folder = play.stage.folder / "pdf"
    folder.mkdir(exist_ok=True)
    authority = folder / "authority.pem"
    play.stage.manage("init_signing", "--export", str(authority))
    issued = [
        (key, one)
        for key in ("anna-1", "anna-2")
        for one in play.studies[key]["report_versions"]
        if one["status"] in {"preliminary", "final"}
    ]
    kinds = sorted(one["signature_kind"] for _, one in issued)
    expect(
        kinds == ["person", "seal", "seal"], f"The issued versions are signed by {kinds}, not two seals and a person."
    )
    good, forged = [], []
    for key, version in issued:
        data = play.pdf(key, version["number"])
        expect(hashlib.sha256(data).hexdigest() == version["pdf_sha256"], "A PDF differs from its recorded hash.")
        altered = bytearray(data)
        altered[len(altered) // 3] ^= 0x01
        good.append(str(folder / f"{key}-{version['number']}.pdf"))
        forged.append(str(folder / f"{key}-{version['number']}-altered.pdf"))
        Path(good[-1]).write_bytes(data)
        Path(forged[-1]).write_bytes(bytes(altered))
    play.stage.manage("verify_pdf", *good, "--ca", str(authority))
    try:
        play.stage.manage("verify_pdf", *forged, "--ca", str(authority))
    except StepFailed as error:
        expect(f"{len(forged)} of {len(forged)} are not valid" in str(error), f"Of altered PDFs it says: {error}")
    else:
        raise StepFailed("PDFs with one flipped bit still verify.")
    step.say(f"{len(issued)} PDFs verify against the demo's authority, none with one bit flipped")


def deliveries(play: Play, step: Step) -> None:
    """After a refusal and a lost answer the EMR holds exactly one of each version, with the very PDF that was signed."""
    held = play.received_reports()
    state = play.emr("GET", "/control")
    posts = [one.get("status") for one in state["log"] if one["door"] == "fhir" and one["method"] == "POST"]
    expect(posts.count(503) == 1, f"The EMR refused {posts.count(503)} times, not once.")
    lost = posts.count("stored, not answered")
    expect(lost == 1, f"The EMR stored without answering {lost} times, not once.")
    for key, wanted in (("anna-1", ["preliminary"]), ("anna-2", ["preliminary", "final"])):
        report = play.studies[key]["report"]["id"]
        versions = [one for known, rows in held.items() if report in known for one in rows]
        statuses = [one["status"] for one in versions]
        expect(statuses == wanted, f"The EMR holds {statuses} of {key}, not {wanted}.")
        issued = [one for one in play.studies[key]["report_versions"] if one["status"] in {"preliminary", "final"}]
        for resource, version in zip(versions, issued, strict=True):
            expect(
                _pdf_hash(play, resource) == version["pdf_sha256"],
                f"The PDF at the EMR is not version {version['number']}.",
            )
    expect(all(play.studies["bernd-1"]["report"]["id"] not in key for key in held), "The held report was delivered.")
    with_pdf = sum(b"^Base64^" in play.stored_message(name) for name in state["hl7"])
    expect(
        len(state["hl7"]) == 3 and with_pdf == 3,
        f"The EMR holds {len(state['hl7'])} ORU, {with_pdf} with a PDF, not 3.",
    )
    step.say("3 versions over FHIR and 3 ORU, one refusal and one lost answer survived")


def _pdf_hash(play: Play, report: dict[str, Any]) -> str:
    """SHA-256 of the PDF that a DiagnosticReport presents, in itself or as a Binary."""
    form = next(one for one in report["presentedForm"] if one["contentType"] == "application/pdf")
    data = form.get("data")
    if data is None:
        kind, logical_id = form["url"].split("/")[-2:]
        data = play.emr("GET", f"/fhir/{kind}/{logical_id}")["data"]
    return hashlib.sha256(base64.b64decode(data)).hexdigest()


def access(play: Play, step: Step) -> None:
    """Who is not on the care team sees nothing."""
    study = play.studies["anna-2"]["id"]
    clinician = play.person("clara")
    expect(clinician.json("/api/studies/")["studies"] == [], "A clinician without assignment sees studies.")
    for path in (f"/api/studies/{study}/", f"/studies/{study}/"):
        status = clinician.page(path).status_code
        expect(status in {403, 404}, f"{path} answered {status} to a clinician without assignment.")
    step.say("an unassigned clinician gets an empty list and 404")


def audit_record(play: Play, step: Step) -> None:
    """Every kind of step is recorded, no identity is in it, and raw SQL cannot alter it."""
    officer = play.person("cora")
    expect(officer.page("/audit/").status_code == 200, "The compliance officer cannot read the audit record.")
    database = play.stage.folder / "oncoflow.sqlite3"
    if not database.exists():
        step.say("on PostgreSQL: raw SQL is tried by the test suite")
        return
    connection = sqlite3.connect(database, timeout=30)
    try:
        rows = connection.execute("SELECT * FROM audit_auditrow").fetchall()
        columns = [one[1] for one in connection.execute("PRAGMA table_info(audit_auditrow)")]
        events = {row[columns.index("event")] for row in rows}
        text = json.dumps([[str(value) for value in row] for row in rows])
        for visit in VISITS:
            for secret in (visit.person.mrn, visit.person.family, visit.accession, visit.study_instance_uid):
                expect(secret not in text, "An audit row holds identity.")
        for subject in ("order", "study", "document", "report", "patient"):
            expect(
                any(event.startswith(f"{subject}.") for event in events), f"Nothing is recorded about any {subject}."
            )
        for event in ("report.sign", "report.issue"):
            expect(event in events, f"{event} is not recorded.")
        for statement in ("UPDATE audit_auditrow SET outcome = 0", "DELETE FROM audit_auditrow"):
            try:
                connection.execute(statement)
            except sqlite3.DatabaseError:
                continue
            raise StepFailed(f"Raw SQL altered the audit record: {statement}")
        connection.rollback()
        kept = connection.execute("SELECT COUNT(*) FROM audit_auditrow").fetchone()[0]
        expect(kept >= len(rows), "Rows of the audit record vanished.")
    finally:
        connection.close()
    step.say(f"{len(rows)} rows of {len(events)} kinds, none with identity, none alterable")
