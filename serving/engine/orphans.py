from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PARENT_PID = "ENGINE_PARENT_PID"
"""Tells an engine process who started it: the kernel reports only deaths that come after it was asked to."""


def die_with_parent(parent: int | None = None) -> None:
    """Has the kernel kill this process when the one that started it ends, however it ended (Linux only).

    Exits at once if `parent` is given and no longer this process's parent.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit("the process that started this engine is gone")


def die_with_starter() -> None:
    """`die_with_parent` for the processes of an engine, which start others: `PARENT_PID` names the parent, and this
    process to those that it will start.

    An interpreter takes seconds to come this far. A parent that was killed meanwhile would leave an engine behind.
    """
    parent = os.environ.get(PARENT_PID)
    die_with_parent(None if parent is None else int(parent))
    name_this_process()
    os.register_at_fork(after_in_child=name_this_process)


def name_this_process() -> None:
    os.environ[PARENT_PID] = str(os.getpid())
