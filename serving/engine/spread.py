"""Which replica a generation goes to: the one that has its first image, unless that one has more to do than is fair."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

from serving.engine import work
from serving.engine.replica import Replica
from serving.generation import Generation

FAIR = 1.25
"""How much more than its share of all work a replica may have before what prefers it goes elsewhere."""


def choose(generation: Generation, replicas: Sequence[Replica]) -> Replica:
    """One of the `replicas`, of which there is at least one.

    Rendezvous hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): each gateway of several comes to the
    same order of preference for an image, and takes the first replica in it that has a fair load. The first image
    counts, because a conversation about it begins with it every time.
    """
    if len(replicas) == 1:
        return replicas[0]
    digest = next((image.content.digest for image in generation.images if image.content is not None), None)
    if digest is None:
        return min(replicas, key=lambda replica: (replica.weight, random.random()))
    weight = work.weight(generation)
    limit = FAIR * (sum(replica.weight for replica in replicas) + weight) / len(replicas)
    preferred = sorted(replicas, key=lambda replica: _affinity(replica.url, digest))
    for replica in preferred:
        if replica.weight + weight <= max(limit, weight):
            return replica
    return min(preferred, key=lambda replica: replica.weight)


def _affinity(url: str, digest: str) -> bytes:
    return blake2b(url.encode(), key=digest.encode()[:64], digest_size=8).digest()
