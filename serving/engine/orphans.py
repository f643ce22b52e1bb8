from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PARENT_PID = "ENGINE_PARENT_PID"
"""Tells a child who started it: the kernel reports only deaths that come after it was asked to."""


def die_with_parent(parent: int | None = None) -> None:
    """Has the kernel kill this process when the one that started it ends, however it ended (Linux only).

    Exits at once if `parent` is given and no longer this process's parent.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit("the process that started this engine is gone")
