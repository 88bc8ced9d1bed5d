"""The play: synthetic patients go through the whole service, as an EMR, a scanner and people would send and look."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx

from oncoflow_site.demo import orders
from oncoflow_site.demo.clients import Fhir, MllpSender, Person, acknowledgement, send_study
from oncoflow_site.demo.display import Display, Step, StepFailed
from oncoflow_site.demo.orders import VISITS, Visit
from oncoflow_site.demo.stage import Stage
from oncoflow_site.demo.synthetic import SimulatedStudy, simulate

CALLING_AE = "DEMOSCANNER"
IDENTIFIER_SYSTEM = "https://demo-hospital.example/fhir/identifier"
PIPELINE_LIMIT_S = 420.0


@dataclass(frozen=True)
class Account:
    """A demo account."""

    username: str
    role: str
    first_name: str
    last_name: str
    staff: bool = False
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    key_password: str = field(default_factory=lambda: secrets.token_urlsafe(12))


@dataclass
class Play:
    """One run of the demo; what the steps find out is kept for the checks."""

    stage: Stage
    display: Display
    accounts: dict[str, Account] = field(default_factory=dict)
    token: str = ""
    simulated: dict[str, SimulatedStudy] = field(default_factory=dict)
    studies: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    pdfs: dict[tuple[str, int], bytes] = field(default_factory=dict)
    radiologist: Person | None = None
    _rendering: dict[str, Future[SimulatedStudy]] = field(default_factory=dict)
    _pool: ProcessPoolExecutor | None = None

    def __post_init__(self) -> None:
        for one in (
            Account("rhea", "radiologist", "Rhea", "Stein"),
            Account("david", "doctor", "David", "Lind"),
            Account("clara", "clinician", "Clara", "Voss"),
            Account("timo", "technician", "Timo", "Berg"),
            Account("cora", "compliance_officer", "Cora", "Wacht"),
            Account("admin", "admin", "Ada", "Minder", staff=True),
            Account("emr", "integration", "Hospital", "EMR"),
        ):
            self.accounts[one.username] = one

    # --- the acts -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Every act in order; raises `StepFailed` at the first that does not give what it must."""
        with self.display.step("Simulate the patients (in the background)"):
            self._begin_simulation()
        with self.display.step("Keys, database, accounts, tokens, peers") as step:
            self._set_up(step)
        with self.display.step("Start web, workers, listeners, experts, EMR") as step:
            self.stage.start_emr()
            self.stage.start_service()
            self.stage.wait_ready(self.display.progress)
            step.say(f"{self.stage.web_url}")
        with self.display.step("EMR sends patients and orders (MLLP)") as step:
            self._send_orders(step)
        with self.display.step("EMR sends documents (FHIR)") as step:
            self._send_documents(step)
        with self.display.step("Care teams are assigned") as step:
            self._assign(step)
        self._command_emr({"fhir": "refuse"})
        for visit in VISITS:
            with self.display.step(f"Scanner sends {visit.key} (C-STORE)") as step:
                self._send_images(visit, step)
        with self.display.step("Volumes, panel, measurement, reports") as step:
            self._follow_pipeline(step)
        with self.display.step("Preliminary reports reach the EMR (FHIR and HL7)") as step:
            self._await_deliveries(step, {"anna-1": 1, "anna-2": 1})
        with self.display.step("The radiologist signs on the web") as step:
            self._sign(step, "anna-2")
        with self.display.step("The final report reaches the EMR") as step:
            self._await_deliveries(step, {"anna-2": 2})

    # --- preparation --------------------------------------------------------------------------------------------------

    def _begin_simulation(self) -> None:
        # spawn: a forked child would share this process's sockets and threads
        self._pool = ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn"))
        for visit in VISITS:
            self._rendering[visit.key] = self._pool.submit(simulate, visit, self.stage.folder / "scanner")

    def _simulated(self, key: str) -> SimulatedStudy:
        if key not in self.simulated:
            self.simulated[key] = self._rendering[key].result(timeout=300)
            if len(self.simulated) == len(VISITS) and self._pool is not None:
                self._pool.shutdown()
                self._pool = None
        return self.simulated[key]

    def close(self) -> None:
        """Give up what runs beside us."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _set_up(self, step: Step) -> None:
        wanted = {
            "accounts": [vars(one) for one in self.accounts.values()],
            "emr": {
                "account": "emr",
                "application": "ONCOEMR",
                "facility": orders.AUTHORITY,
                "token": self.stage.emr_token,
                "fhir_url": f"{self.stage.emr_url}/fhir",
                "mllp_address": f"127.0.0.1:{self.stage.ports['emr_mllp']}",
            },
        }
        said = self.stage.manage("setup_demo", "--calling-ae-title", CALLING_AE, stdin=json.dumps(wanted))
        self.token = json.loads(said.strip().splitlines()[-1])["token"]
        step.say(f"{len(self.accounts)} accounts")

    # --- the EMR and the scanner ----------------------------------------------------------------------------------------

    def _send_orders(self, step: Step) -> None:
        sender = MllpSender("127.0.0.1", self.stage.ports["mllp"])
        messages = [
            ("A1", orders.adt_a04(orders.ANNA, "A1", VISITS[0].when)),
            ("A2", orders.adt_a04(orders.BERND, "A2", VISITS[2].when)),
            *((f"O-{visit.key}", orders.omi_o23(visit, f"O-{visit.key}")) for visit in VISITS),
        ]
        try:
            for control_id, message in messages:
                ack = sender.send(message)
                code, answered = acknowledgement(ack)
                if (code, answered) != ("AA", control_id):
                    raise StepFailed(f"Message {control_id} was answered {code} for {answered}.")
                if sender.send(message) != ack:
                    raise StepFailed(f"Message {control_id}, sent again, was not given the same acknowledgement.")
        finally:
            sender.close()
        step.say(f"{len(messages)} messages acknowledged AA, each also when repeated")

    def _send_documents(self, step: Step) -> None:
        client = Fhir(f"{self.stage.web_url}/fhir", self.token)
        stranger = Fhir(f"{self.stage.web_url}/fhir", "no-such-token")
        for key, person, code, display, text, when in orders.DOCUMENTS:
            resource = orders.document_reference(key, person, code, display, text, when, IDENTIFIER_SYSTEM)
            refused = stranger.create(resource)
            if refused.status_code != 401 or refused.json().get("resourceType") != "OperationOutcome":
                raise StepFailed(f"A stranger's document was answered {refused.status_code}, not 401 OperationOutcome.")
            end = time.monotonic() + 60
            while (answer := client.create(resource)).status_code in {404, 422} and time.monotonic() < end:
                time.sleep(0.5)  # the patient's ADT is processed behind its acknowledgement
            if answer.status_code != 201:
                raise StepFailed(f"Document {key} was answered {answer.status_code}: {answer.text[:200]}")
        step.say(f"{len(orders.DOCUMENTS)} documents stored, a stranger refused")

    def _assign(self, step: Step) -> None:
        end = time.monotonic() + 60
        # Beside each other: a command's time is the start of its process.
        wanted = (("rhea", "reads the images"), ("david", "treats the patient"))
        with ThreadPoolExecutor(len(wanted)) as pool:
            list(pool.map(lambda one: self._assign_to(one[0], one[1], end), wanted))
        step.say("radiologist and doctor see both patients, nobody else does")

    def _assign_to(self, username: str, reason: str, end: float) -> None:
        while self.stage.manage("assign_patient", username, "--all", "--reason", reason).count("assigned to") != 2:
            if time.monotonic() > end:
                raise StepFailed("The two patients of the ADT messages did not appear.")

    def _send_images(self, visit: Visit, step: Step) -> None:
        self.display.progress("waiting for the simulated images")
        study = self._simulated(visit.key)
        accepted = send_study(
            "127.0.0.1",
            self.stage.ports["dicom"],
            study.paths,
            calling=CALLING_AE,
            called="ONCOFLOW",
            told=lambda done, of: self.display.progress(f"{done} of {of} instances") if done % 20 == 0 else None,
        )
        step.say(f"{accepted} instances")

    # --- people look ------------------------------------------------------------------------------------------------------

    def person(self, username: str) -> Person:
        return Person(self.stage.web_url, username, self.accounts[username].password)

    def _find_studies(self, reader: Person) -> None:
        """Fill `studies` by visit: the list shows no accession number, so the moment of the examination tells them apart."""
        for row in reader.json("/api/studies/")["studies"]:
            for visit in VISITS:
                if datetime.fromisoformat(row["performed_at"]) == visit.when:
                    self.studies[visit.key] = row

    def _follow_pipeline(self, step: Step) -> None:
        reader = self.radiologist = self.person("rhea")
        end = time.monotonic() + PIPELINE_LIMIT_S
        while time.monotonic() < end:
            self.stage.check_alive()
            self._find_studies(reader)
            waiting = []
            for visit in VISITS:
                row = self.studies.get(visit.key)
                if row is None:
                    waiting.append(f"{visit.key}: not listed yet")
                elif row["state"] in {"flagged", "failed"}:
                    raise StepFailed(f"Study {visit.key} is {row['state']}: {(row['flag'] or {}).get('message', '')}")
                elif not row["report"] or row["report"]["state"] not in {"preliminary", "held"}:
                    waiting.append(f"{visit.key}: {self._doing(reader, row)}")
            if not waiting:
                break
            self.display.progress("; ".join(waiting))
            time.sleep(1.0)
        else:
            raise StepFailed(f"Not finished after {PIPELINE_LIMIT_S:.0f} s: {'; '.join(waiting)}.")
        for visit in VISITS:
            detail = self.studies[visit.key] = reader.json(f"/api/studies/{self.studies[visit.key]['id']}/")
            gate = detail["panel"]["gate"]
            agreement = "not assessed" if gate["a"] is None else f"{gate['a']:.3f}"
            step.say(f"{visit.key}: agreement {agreement} -> {detail['report']['state']}")

    def _doing(self, reader: Person, row: dict[str, Any]) -> str:
        steps = reader.json(f"/api/studies/{row['id']}/")["steps"]
        failed = [one for one in steps if one["state"] in {"failed", "dead"}]
        if failed:
            raise StepFailed(f"{failed[0]['kind']} ended as {failed[0]['state']}: {failed[0]['error']}")
        now = [one for one in steps if one["state"] == "running"]
        return f"{now[0]['title']} {100 * now[0]['progress']:.0f} %" if now else row["state"]

    # --- the EMR receives -----------------------------------------------------------------------------------------------

    def _command_emr(self, words: dict[str, str]) -> None:
        self.emr("POST", "/control", words)

    def emr(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the receiving EMR."""
        headers = {"Authorization": f"Bearer {self.stage.emr_token}"}
        answer = httpx.request(method, self.stage.emr_url + path, json=body, headers=headers, timeout=30)
        if answer.status_code != 200:
            raise StepFailed(f"The EMR answered {answer.status_code} to {path}.")
        return answer.json()

    def received_reports(self) -> dict[str, list[dict[str, Any]]]:
        """Versions of each DiagnosticReport that the EMR holds, oldest first, by the report's id here."""
        held: dict[str, list[dict[str, Any]]] = {}
        for logical_id in self.emr("GET", "/control")["fhir"].get("DiagnosticReport", {}):
            history = self.emr("GET", f"/fhir/DiagnosticReport/{logical_id}/_history")
            versions = [entry["resource"] for entry in reversed(history["entry"])]
            key = next(
                (one["value"] for one in versions[-1]["identifier"] if "report" in one.get("system", "")), logical_id
            )
            held[key] = versions
        return held

    def _await_deliveries(self, step: Step, wanted: dict[str, int]) -> None:
        """Until the EMR holds the wanted number of versions of each report, over FHIR and as ORU."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            state = self.emr("GET", "/control")
            held = self.received_reports()
            missing = [key for key, count in wanted.items() if self._versions(held, key) < count]
            messages = self._messages(state)
            short = [key for key, count in wanted.items() if messages.get(key, 0) < count]
            if not missing and not short and not self._undelivered():
                step.say(f"{sum(map(len, held.values()))} report versions over FHIR, {len(state['hl7'])} ORU messages")
                return
            self.display.progress(f"waiting for {', '.join(missing + short) or 'confirmations'}")
            time.sleep(0.7)
        raise StepFailed(f"The EMR did not get everything: missing over FHIR {missing}, as ORU {short}.")

    def _undelivered(self) -> bool:
        said = self.stage.manage("deliveries")
        return " waiting " in said or " sending " in said

    def _versions(self, held: dict[str, list[dict[str, Any]]], key: str) -> int:
        report = self.studies[key]["report"]["id"]
        return sum(len(versions) for known, versions in held.items() if report in known)

    def _messages(self, state: dict[str, Any]) -> dict[str, int]:
        """ORU messages held, by visit: the placer number in OBR-2 tells which."""
        counted: dict[str, int] = {}
        for name in state["hl7"]:
            text = self.stored_message(name).decode("utf-8", "replace")
            for visit in VISITS:
                if f"|{visit.placer}^" in text:
                    counted[visit.key] = counted.get(visit.key, 0) + 1
        return counted

    @property
    def reader(self) -> Person:
        """The radiologist, who signs in when there is something to read."""
        if self.radiologist is None:
            raise StepFailed("Nobody has signed in as the radiologist.")
        return self.radiologist

    def stored_message(self, name: str) -> bytes:
        """One message as the EMR stored it."""
        return Path(self.stage.folder / "emr" / "hl7" / name).read_bytes()

    # --- signing ------------------------------------------------------------------------------------------------------------

    def _sign(self, step: Step, key: str) -> None:
        self._command_emr({"fhir": "swallow"})  # the final report will be stored, and the answer lost
        report = self.studies[key]["report"]["id"]
        page = self.reader.page(f"/reports/{report}/")
        marker = 'name="version" value="'
        if marker not in page.text:
            raise StepFailed(f"The report page of {key} shows no sign-off form to the radiologist.")
        version = page.text.split(marker, 1)[1].split('"', 1)[0]
        account = self.accounts["rhea"]
        for password, signs in (("not the password", False), (account.key_password, True)):
            self.reader.submit(
                f"/reports/{report}/sign", {"version": version, "password": password}, page=f"/reports/{report}/"
            )
            detail = self.reader.json(f"/api/studies/{self.studies[key]['id']}/")
            if (detail["report"]["state"] == "final") is not signs:
                raise StepFailed(
                    f"After {'the right' if signs else 'a wrong'} password it is {detail['report']['state']}."
                )
        self.studies[key] = detail
        step.say("a wrong password refused, the right one signs")

    def pdf(self, key: str, number: int) -> bytes:
        """PDF of one version, as the radiologist sees it."""
        if (key, number) not in self.pdfs:
            report = self.studies[key]["report"]["id"]
            self.pdfs[key, number] = self.reader.bytes(f"/api/reports/{report}/versions/{number}.pdf")
        return self.pdfs[key, number]

    def sha256(self, key: str, number: int) -> str:
        return hashlib.sha256(self.pdf(key, number)).hexdigest()
