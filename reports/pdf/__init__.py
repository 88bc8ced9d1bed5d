"""The printed report: from content and header to PDF bytes, by reportlab. No database and no keys here.

`render` is the way in; ``data`` says what it takes, ``sections`` builds the parts, ``page`` the frame of every page.
"""

from reports.pdf.data import HeaderData, Picture, RenderedPdf, RenderInput, SignatureText
from reports.pdf.page import render

__all__ = ["HeaderData", "Picture", "RenderInput", "RenderedPdf", "SignatureText", "render"]
