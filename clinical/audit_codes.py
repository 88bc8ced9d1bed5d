"""Audit event codes of this room."""

from audit.codes import declare_code

for _code, _meaning in {
    "patient.register": "A patient was registered",
    "patient.update": "A patient's identity was updated",
    "patient.identity": "A patient's identity was revealed",
    "authority.change": "An assigning authority was added or changed",
    "patient.confirm": "A person confirmed who a patient is",
    "patient.merge": "Two records of one patient were merged",
    "patient.merge_request": "A merge of two records was asked for",
    "patient.merge_refuse": "A merge of two records was refused",
    "patient.merge_preview": "What a merge would move was looked at",
    "patient.unmerge": "A merge of two records was taken back",
    "identity.conflict": "An identity contradicted what was known and was kept for a person to decide",
    "identity.decide": "A person decided whose a contradicting identity is",
    "identity.list": "The work list of identities was seen",
    "patient.view": "A patient's record was seen",
    "patient.list": "A list of patients was seen",
    "patient.search": "Patients were searched for",
    "patient.assign": "A person was put on a patient's care team",
    "patient.unassign": "A person was taken off a patient's care team",
    "patient.break_glass": "A patient's record was opened in an emergency",
    "order.accept": "An imaging order was accepted",
    "order.change": "An imaging order was changed",
    "order.cancel": "An imaging order was cancelled",
    "order.advance": "An imaging order moved on",
    "order.identity": "An order's numbers were revealed",
    "order.view": "An order was seen",
    "document.add": "A clinical document was received",
    "document.extract": "The text of a clinical document was read out",
    "document.view": "A clinical document was seen",
    "document.retrieve": "Passages were retrieved from a patient's documents",
    "user.create": "An account was created",
    "user.change": "An account was changed",
    "notice.seen": "A notice was marked as seen",
}.items():
    declare_code(_code, _meaning)
