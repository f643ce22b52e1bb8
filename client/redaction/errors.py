from __future__ import annotations

from client.errors import UnusableImage


class Unchecked(UnusableImage):
    """Raised when an image could not be looked through for personal data: it must not leave the machine."""
