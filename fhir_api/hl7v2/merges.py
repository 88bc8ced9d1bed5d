"""Merges that a registration announces: A40 (by repeating PID and MRG), A34 and A18; and A47, which renumbers a record.

Each prior number of MRG-1 merges into the patient of PID-3 under the same assigning authority and type. A prior number that
is not known here becomes an empty record of its own, merged at once, so that later messages with it find the survivor and
the merge can be taken back like any other.
"""

from __future__ import annotations

from dataclasses import replace

from clinical import services as clinical
from clinical.identity import Identifier, IdentityData
from clinical.models import MergeState, Patient, PatientMerge
from clinical.patients.merging import contradictions_between
from clinical.registry import mark_old, record_with_number
from fhir_api.hl7v2.er7 import Er7Message, Segment
from fhir_api.hl7v2.fields import identity_of, recorded_at
from fhir_api.hl7v2.peers import PeerReading
from fhir_api.hl7v2.structure import merge_pairs, prior_numbers
from fhir_api.models import Peer
from oncoflow_site.foundation.errors import PermanentError, UserVisibleError

__all__ = ["apply_merges", "apply_renumbering"]

SOURCE = "mllp"


def _parts(pid: Segment, mrg: Segment, reading: PeerReading) -> tuple[IdentityData, list[Identifier]]:
    """The survivor's identity without the prior numbers, which some senders repeat in PID-3; and the prior numbers that
    recognise a patient."""
    prior = [Identifier(*one) for one in prior_numbers(pid, mrg, reading)]
    identity = identity_of(pid, reading)
    kept = tuple(one for one in identity.identifiers if one not in prior)
    matching = [one for one in prior if reading.policy.matches(one)]
    if not matching:
        raise UserVisibleError(
            "No prior identifier of the merge is of a type and an authority by which patients are recognised here.",
            what_to_do="Add the type or the assigning authority in the administration, then process the message again.",
            code="no-matching-identifier",
        )
    if not reading.policy.matching(kept):
        raise UserVisibleError(
            "The surviving identifier of the merge is not one by which patients are recognised here.",
            what_to_do="Add the type or the assigning authority in the administration, then process the message again.",
            code="no-matching-identifier",
        )
    return replace(identity, identifiers=kept), matching


def apply_merges(message: Er7Message, reading: PeerReading, peer: Peer) -> tuple[Patient, str]:
    """Carry out every pair of the message; returns the last survivor, and what waits for a person ("" where nothing does)."""
    survivor: Patient | None = None
    waits: list[str] = []
    for pid, mrg in merge_pairs(message):
        identity, numbers = _parts(pid, mrg, reading)
        named = next(filter(None, map(record_with_number, reading.policy.matching(identity.identifiers))), None)
        for number in numbers:
            _reverse(named, record_with_number(number), peer)
        survivor = clinical.register_patient(identity, source=SOURCE, may_correct=True, as_of=recorded_at(message))
        for number in numbers:
            waits.append(_merge(survivor, number, peer, message.type[1]))
    if survivor is None:
        raise PermanentError("The message names no patients to merge.")
    return survivor, ", ".join(filter(None, waits))


def _reverse(named: Patient | None, prior: Patient | None, peer: Peer) -> None:
    """A merge the other way round than one before: that one is taken back first, so that the named one survives."""
    if named is None or prior is None or named.merged_into_id != prior.pk:
        return
    merge = PatientMerge.objects.filter(survivor=prior, prior=named, state=MergeState.MERGED).first()
    if merge is not None:
        clinical.unmerge(merge, by=None, reason=f"{peer.name} merged them the other way round", source=SOURCE)


def _merge(survivor: Patient, number: Identifier, peer: Peer, event: str) -> str:
    prior = clinical.find_patient(number.authority, number.value, number.kind)
    if prior is None:
        nobody = IdentityData(identifiers=(number,))
        prior = clinical.register_patient(nobody, source=SOURCE, provisional=True)
    if prior == clinical.current_patient(survivor):
        return ""  # it is so already
    found = contradictions_between(survivor, prior)
    hold = peer.merges == Peer.Merges.REVIEW or (peer.merges == Peer.Merges.APPLY and len(found) > 1)
    waiting = PatientMerge.objects.filter(prior=prior, state=MergeState.REQUESTED)
    if hold and waiting.exists():
        return "the merge waits for a person"
    waiting_for_nothing = not hold and waiting.exists()
    if waiting_for_nothing:
        raise UserVisibleError(
            "A merge of this record waits for a person.",
            what_to_do="Decide that one on the page of identities, then process the message again.",
            code="merge-asked-for",
        )
    clinical.merge_patients(survivor, prior, by=None, reason=f"ADT^{event}", source=SOURCE, sender=peer.name, hold=hold)
    return "the merge waits for a person" if hold else ""


def apply_renumbering(message: Er7Message, reading: PeerReading, peer: Peer) -> tuple[Patient, str]:
    """A47: the record with the prior number gets the number of PID-3, and keeps the prior one as an old one. Where both numbers
    are known as two records, it is a merge."""
    patient: Patient | None = None
    for pid, mrg in merge_pairs(message):
        identity, numbers = _parts(pid, mrg, reading)
        prior = next(filter(None, (clinical.find_patient(one.authority, one.value, one.kind) for one in numbers)), None)
        known = next(
            filter(
                None,
                (
                    clinical.find_patient(one.authority, one.value, one.kind)
                    for one in reading.policy.matching(identity.identifiers)
                ),
            ),
            None,
        )
        if prior is not None and known is not None and prior != known:
            return apply_merges(message, reading, peer)
        if prior is not None and known is None:
            identity = replace(identity, identifiers=(*identity.identifiers, *numbers))
        patient = clinical.register_patient(identity, source=SOURCE, may_correct=True, as_of=recorded_at(message))
        if prior is not None:
            mark_old(patient, numbers)
    if patient is None:
        raise PermanentError("The message names no patient.")
    return patient, ""
