from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from client.errors import UnusableImage
from client.images import MAX_DATA_URI, check, data_uri, media_type, read
from tests.client.conftest import png

KINDS = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "WEBP": "webp"}
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40)


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_the_type_comes_from_the_bytes(kind: str, name: str) -> None:
    assert check(png(kind=kind)) == f"image/{name}"
    assert data_uri(png(kind=kind)).startswith(f"data:image/{name};base64,")


def test_heic_is_left_to_the_server() -> None:
    assert check(HEIC) == "image/heic"


@pytest.mark.parametrize(
    "data", [b"BM, said the text, and went on for a while", b"%PDF-1.7", b"<svg/>", b"\x89PN", b"RIFF"]
)
def test_no_image(data: bytes) -> None:
    assert media_type(data) is None
    with pytest.raises(UnusableImage, match="not an image"):
        check(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_short(kind: str, share: float) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(stream, kind)
    data = stream.getvalue()
    with pytest.raises(UnusableImage, match="cut short"):
        check(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_bytes_after_the_end_are_not_a_cut(kind: str) -> None:
    check(png(kind=kind) + b"appended by a camera")


def test_empty() -> None:
    with pytest.raises(UnusableImage, match="empty"):
        check(b"")


def test_too_large_says_both_figures(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(png())
        file.truncate(MAX_DATA_URI)
    with pytest.raises(UnusableImage, match=r"too large to send: 21\.0 MB, at most 15\.7 MB"):
        read(path)


def test_a_large_file_that_is_no_image_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(10 * MAX_DATA_URI)
    with pytest.raises(UnusableImage, match="not an image"):
        read(path)


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnusableImage, match="not a regular file"):
        read(tmp_path / "pipe.png")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnusableImage, match="a folder, not an image"):
        read(tmp_path)


def test_unreadable(tmp_path: Path) -> None:
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    with pytest.raises(UnusableImage, match="cannot be read: Too many levels"):
        read(loop)
    with pytest.raises(UnusableImage, match="cannot be read: No such file"):
        read(tmp_path / "gone.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(png())
    path.chmod(0)
    with pytest.raises(UnusableImage, match="Permission denied"):
        read(path)
