from __future__ import annotations

from serving.engine import discovery, triton
from serving.engine.base import Engine
from serving.engine.drained import Drained
from serving.engine.pool import Pool
from serving.engine.reusing import Reusing
from serving.engine.vllm import VLLM
from serving.settings import Settings

SCHEMES = ("http://", "https://", discovery.SCHEME, triton.SCHEME)


def connected(settings: Settings) -> Engine:
    """The engines at the addresses in the settings, of which there is at least one."""
    key = settings.engine_key.get_secret_value() if settings.engine_key else None
    first, *others = settings.engine_urls
    several = bool(others) or discovery.is_name(first)

    def connect(url: str) -> Engine:
        if triton.is_triton(url):
            return triton.Triton(url)
        vllm = VLLM(url, key=key)
        return Reusing(vllm) if several or settings.reuse_images else vllm

    return Pool(settings.engine_urls, connect, drained=Drained(settings.data).read) if several else connect(first)
