from __future__ import annotations

import uuid
from pathlib import Path

from serving.jobs.identity import Identity

LOCK = "batches.lock"


class Leader:
    """Who leads batches: of the processes that share a data folder one, under a name of its own. The next one knows by
    the folder's lock whom it follows, and goes on at once with what that one led; on other machines its leases have to
    lapse first."""

    def __init__(self, folder: Path | None) -> None:
        """None is a process on its own."""
        self._folder = folder
        self._identity: Identity | None = None
        self.former: str | None = None
        """Who led before, and is dead; until somebody has released what it led."""
        self.name = str(uuid.uuid4()) if folder is None else ""

    def leads(self) -> bool:
        """The kernel ends the lock with the process; then the next one that asks has it."""
        if self._folder is None or self._identity is not None:
            return True
        identity = Identity(self._folder, LOCK)
        if not identity.first:
            identity.close()
            return False
        self._identity, self.name, self.former = identity, identity.name, identity.former
        return True

    def close(self) -> None:
        if self._identity is not None:
            self._identity.close()
            self._identity = None
