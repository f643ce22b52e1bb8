"""Real OCR in real worker processes: few tests, one redactor for all that need the models."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from client import Session
from client.redaction import Redacted, Redactor, Unchecked
from client.redaction.workers import Worker
from tests.client.conftest import png
from tests.client.server import Scripted

SECRETS = ("13812345678", "6222021234567890128", "zhang.wei@example.com", "11010519491231002X")


def page(*, rotate: int = 0, kind: str = "PNG", **options: object) -> bytes:
    """A small page with a card, a phone, an ID and an e-mail, and a sum that is nobody's."""
    image = Image.new("RGB", (620, 250), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(26)
    for at, text in enumerate((f"Tel {SECRETS[0]}", f"Card {SECRETS[1]}", f"Mail {SECRETS[2]}", f"ID {SECRETS[3]}")):
        draw.text((20, 12 + 48 * at), text, font=font, fill="black")
    draw.text((20, 206), "Revenue 1,234,567.89", font=font, fill="black")
    stream = io.BytesIO()
    image.rotate(rotate, expand=True).save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


@pytest.mark.timeout(240)
async def test_pages_are_masked_and_nothing_but_pixels_leaves(server: Scripted, tmp_path: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("Author", SECRETS[0])
    audit = tmp_path / "audit.jsonl"
    async with Redactor(1, audit=audit) as redactor:
        upright = await redactor.redact(page(pnginfo=told), source="a.png")
        _check(upright)
        assert SECRETS[0].encode() not in upright.data
        async with Session(server.url, "sk-test", prepare=redactor.prepare) as session:
            await session.ask([page(pnginfo=told)], "?")
        assert server.calls[0].image == upright.data
        turned = await redactor.redact(page(rotate=90, kind="JPEG"))
        assert turned.counts == upright.counts
        assert turned.data.startswith(b"\xff\xd8")
        shown = await redactor.redact(page(pnginfo=told), preview=True)
        assert shown.findings == upright.findings
        with pytest.raises(Unchecked, match="2 pictures"):
            await redactor.redact(_animation())
        await redactor.redact(png())  # the process goes on after what it refused
    written = audit.read_text("utf-8")
    assert not any(secret in written for secret in SECRETS)
    assert [len(json.loads(line)["findings"]) for line in written.splitlines()][:2] == [4, 4]


def _check(redacted: Redacted) -> None:
    assert redacted.counts == {"phone": 1, "bank_card": 1, "email": 1, "id_number": 1}
    seen = pixels(redacted.data)
    assert (seen[200:240] < 128).any()  # the revenue is still there
    for finding in redacted.findings:
        left, top, width, height = finding.box
        assert (seen[top + 4 : top + height - 4, left + 4 : left + width - 4] == 0).all()


def _animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.ring3
@pytest.mark.timeout(120)
async def test_a_process_that_is_killed_or_hangs_lets_nothing_through() -> None:
    async with Redactor(1, timeout=60) as redactor:
        (worker,) = redactor._all
        looking = asyncio.create_task(redactor.redact(page()))
        while worker._process is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.kill(worker._process.pid, signal.SIGSTOP)
        redactor_hangs = asyncio.create_task(asyncio.sleep(0.05))
        await redactor_hangs
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(Unchecked, match="ended"):
            await looking


@pytest.mark.ring3
async def test_a_process_that_takes_too_long_is_ended() -> None:
    worker = Worker(2**31, 1, b"salt")
    with pytest.raises(Unchecked, match="more than 0 s"):
        await worker.look(page(), False, 0.01)
    assert worker._process is None


@pytest.mark.ring3
@pytest.mark.timeout(60)
async def test_too_little_memory_is_a_refusal() -> None:
    worker = Worker(64 * 2**20, 1, b"salt")
    with pytest.raises(Unchecked):
        await worker.look(page(), False, 50)
    await worker.end()
