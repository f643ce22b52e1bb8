from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from client.redaction.rules import Kind


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was masked, without a word of what it said.

    Attributes:
        kind: what it was.
        box: left, top, width, height in pixels of the upright image, padding included.
        length: characters.
        digest: equal for equal values of one `Redactor`, and of no use without its secret, which is kept nowhere.
        verified: a check digit was right.
    """

    kind: Kind
    box: tuple[int, int, int, int]
    length: int
    digest: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Redacted:
    """An image that may leave the machine.

    Attributes:
        data: a JPEG where a JPEG came, else a PNG: pixels alone, without EXIF, thumbnails or comments.
        findings: what was masked.
        width, height: pixels.
        covered: the part of the image that is masked, 0 to 1.
    """

    data: bytes
    findings: tuple[Finding, ...]
    width: int
    height: int
    covered: float

    @property
    def counts(self) -> Counter[str]:
        """How many of each kind."""
        return Counter(finding.kind for finding in self.findings)
