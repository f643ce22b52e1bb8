"""PDF documents: pages, and the figures and tables on them as images."""

from client.documents.models import Box, Event, Figure, Opened, PageFailed, PageRead, UnreadableDocument
from client.documents.reader import digest_of, figures_of

__all__ = [
    "Box",
    "Event",
    "Figure",
    "Opened",
    "PageFailed",
    "PageRead",
    "UnreadableDocument",
    "digest_of",
    "figures_of",
]
