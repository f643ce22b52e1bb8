"""Videos made for tests."""

from __future__ import annotations

import io

import av
import PIL.Image
from av.video.stream import VideoStream


def film(
    seconds: float,
    *,
    size: tuple[int, int] = (320, 240),
    rate: int = 10,
    container: str = "mp4",
    codec: str = "mpeg4",
    step: float = 4,
) -> bytes:
    """A video that turns from black to red, by `step` of 255 a frame."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(round(seconds * rate)):
            red = PIL.Image.new("RGB", size, (min(255, round(number * step)), 0, 0))
            frame = av.VideoFrame.from_image(red)  # type: ignore[no-untyped-call]
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()
