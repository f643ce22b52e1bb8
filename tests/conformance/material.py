"""What clients send: two pictures in every form, a short film, lines of a batch."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import PIL.Image

from tests.conformance.clients.driver import Ask
from tests.serving.wire import data_uri, picture

FRAMES = 4
RATE = 2


@dataclass(frozen=True)
class Material:
    """`lines` are a file of batch lines, `more` further fields of every `Ask`."""

    picture: bytes
    second: bytes
    prompt: str
    comparison: str
    lines: bytes
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def drawn(cls, model: str) -> Material:
        prompt, comparison = "What happened to the revenue?", "Which of the two is higher?"
        return cls(picture(), picture(size=(80, 64)), prompt, comparison, lines(model, "Say ok."))

    def ask(self, folder: Path, **where: Any) -> Ask:
        """The files are written to `folder`; `where` says the target and the URLs of the picture and the film."""
        (folder / "chart.png").write_bytes(self.picture)
        (folder / "lines.jsonl").write_bytes(self.lines)
        return Ask(
            prompt=self.prompt,
            image=data_uri(self.picture),
            second=data_uri(self.second),
            comparison=self.comparison,
            image_path=str(folder / "chart.png"),
            lines_path=str(folder / "lines.jsonl"),
            frames=[data_uri(picture(size=(128, 96)))] * FRAMES,
            **self.more,
            **where,
        )


def film(seconds: int = FRAMES // RATE) -> bytes:
    """MPEG-4 in an MP4 file, `RATE` frames a second: sampled at 2 fps it gives `FRAMES` frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(seconds * RATE):
            still = PIL.Image.new("RGB", (128, 96), (number * 40, 80, 120))
            container.mux(stream.encode(av.VideoFrame.from_image(still)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())
    return buffer.getvalue()


def lines(model: str, content: str | list[dict[str, Any]]) -> bytes:
    """Two good lines of a batch, and one with a parameter out of range."""
    good = {"model": model, "messages": [{"role": "user", "content": content}]}
    bodies = {"one": good, "two": good, "wrong": {**good, "temperature": 5}}
    rows = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in bodies.items()
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def order(flow: str, ask: Ask) -> bytes:
    """One line for a driver."""
    return json.dumps({"flow": flow, "ask": asdict(ask)}).encode() + b"\n"
