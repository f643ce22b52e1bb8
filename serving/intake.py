"""What a client may make the server hold, and wait for, while it sends its request."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.allocation import Freed
from serving.budget import Budget

INTAKE = "homescope.intake"
"""Where a scope has the `Intake` of its server."""
REST = "homescope.rest"
"""Where a scope has what brings the rest of its body at once, once the first of it has been received: a coroutine
function of the seconds in which something has to come. It raises `TimeoutError` where nothing does, and
`ConnectionError` where the client has gone."""
UNBOUNDED = 1 << 62


@dataclass(frozen=True, slots=True)
class Intake:
    """`bodies` are the bytes of all request bodies that are held at a time; of one body, `sent_within` seconds bring
    something or it is given up."""

    bodies: Budget = field(default_factory=lambda: Budget(UNBOUNDED, patience=0))
    sent_within: float = 60.0
    freed: Freed = field(default_factory=Freed)
