"""A certificate as a PDF: the words of `words.told`, laid out. What is signed is the envelope, which it names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from tenure.certificates.words import told

MARGIN_MM: Final = 18.0
LINE_MM: Final = 4.6
_FONT: Final = "Helvetica"


class _Page(FPDF):
    def __init__(self, foot: str) -> None:
        super().__init__(format="A4")
        self._foot = foot

    def footer(self) -> None:
        self.set_y(-MARGIN_MM)
        self.set_font(_FONT, size=7)
        self.cell(0, 4, f"{self._foot}   page {self.page_no()}", align="C")


def rendered(certificate: Mapping[str, Any], *, sha256: str, key: str, revoked: str | None = None) -> bytes:
    """The PDF. `sha256` is that of the envelope, `key` the name of the key that signed it.

    The same certificate gives the same bytes. Letters that the built-in font lacks are written as escapes (`\\u0142`).
    """
    page = _Page(f"certificate {certificate['id']}")
    page.set_compression(False)  # so that anybody can search it, and tests can read it
    page.set_margin(MARGIN_MM)
    page.set_auto_page_break(True, margin=MARGIN_MM + 6)
    page.set_creation_date(datetime.fromisoformat(certificate["issued_at"]))
    page.set_title(_latin(f"Certificate of erasure {certificate['id']}"))
    page.set_producer(f"Tenure {certificate['performed_by']['version']}")
    page.add_page()
    heading, *lines = told(certificate)
    page.set_font(_FONT, style="B", size=13)
    _line(page, heading, height=8)
    if revoked is not None:
        page.set_font(_FONT, style="B", size=11)
        _line(page, f"REVOKED: {revoked}", height=7)
    page.set_font(_FONT, size=9)
    for line in lines:
        _line(page, line)
    page.set_font(_FONT, style="I", size=8)
    _line(page, "")
    _line(
        page,
        f"This page is for reading. What is signed is the envelope with the SHA-256 {sha256}, under the key {key}: "
        "`tenure certificate verify` checks it with the public key and nothing else.",
    )
    return bytes(page.output())


def _line(page: FPDF, text: str, *, height: float = LINE_MM) -> None:
    if not text:
        page.ln(height)
        return
    page.multi_cell(0, height, _latin(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _latin(text: str) -> str:
    """What the built-in fonts can show."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1")
