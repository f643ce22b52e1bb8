from __future__ import annotations

CONTAINERS = ("MP4", "MOV", "AVI", "MKV", "WEBM", "FLV", "WMV")

ATOMS = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})


def container_of(head: bytes) -> str | None:
    """FFmpeg's name for the container that a file begins as, None for what is none of `CONTAINERS`."""
    if head[4:8] in ATOMS:
        return "mp4"
    if head.startswith(b"RIFF") and head[8:11] == b"AVI":
        return "avi"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"0&\xb2u\x8ef\xcf\x11"):
        return "asf"
    return None
