from __future__ import annotations

from starlette.routing import Route

from serving.access.keyring import Keyring
from serving.access.signer import Signer
from serving.dashscope import files, links, models, tokenizer, uploads
from serving.dashscope.links import Links
from serving.dashscope.policy import Policies
from serving.engine.base import Engine
from serving.engine.tokens import Tokenizer
from serving.layers.limited import Limited
from serving.settings import Settings
from serving.storage.assembly import Storage


def routes(engine: Engine, storage: Storage, keyring: Keyring, limited: Limited, settings: Settings) -> list[Route]:
    """What the native protocol has besides chat and tasks. `engine` is the one at the bottom, below all layers."""
    signer = Signer(storage.records)
    policies = Policies(signer, settings.max_upload_bytes, clock=storage.clock)
    leading = Links(signer, clock=storage.clock)
    return [
        *uploads.routes(storage.uploads, policies, keyring, settings),
        *files.routes(storage.files, leading, keyring, settings),
        *links.routes(storage.files, leading),
        *models.routes(keyring, settings),
        *tokenizer.routes(engine if isinstance(engine, Tokenizer) else None, keyring, limited, settings),
    ]
