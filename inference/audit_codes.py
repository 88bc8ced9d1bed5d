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
