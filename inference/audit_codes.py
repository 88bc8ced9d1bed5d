"""Audit event codes of the inference room."""

from __future__ import annotations

from audit.codes import declare_code

declare_code("panel.convene", "A panel of experts was convened over a study")
declare_code("panel.conclude", "A panel was concluded")
declare_code("panel.fail", "A panel ended without any answer")
declare_code("expert.finish", "An expert segmented a study")
declare_code("expert.fail", "An expert gave no answer")
declare_code("model.register", "A model version was registered")
declare_code("model.status", "The standing of a model version changed")
declare_code("panel.cancel", "A panel was stopped by a person")
declare_code("panel.again", "A stopped or failed panel was run again")
declare_code("panel.fuse", "A person chose experts and fusion for a study")
declare_code("panel.fused", "A chosen fusion became the consensus of a study")
declare_code("panel.evaluate", "The outlines of a panel were compared with a reference")
declare_code("panel.view", "The fusions of a panel were looked at")
declare_code("model.proposal", "A change of a model's standing was proposed by its figures")
declare_code("model.decision", "A proposed change of a model's standing was decided")
declare_code("model.weights", "The weights of weighted fusion were learned anew")
declare_code("evaluation.export", "Case evaluations were exported under pseudonyms")
declare_code("evaluation.charts", "The evaluation charts were looked at")
