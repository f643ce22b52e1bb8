"""What an engine has started ends with it, whenever it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.engine.orphans import PARENT_PID

pytestmark = [
    pytest.mark.ring3,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help in this is Linux's own"),
]

SLOW_CHILD = """
import sys
print("started", flush=True)
sys.stdin.readline()
from serving.engine.orphans import die_with_starter
die_with_starter()
print("lives on", flush=True)
"""
PARENT = """
import subprocess, sys, time
from serving.engine.orphans import die_with_starter
die_with_starter()
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""
FORKS = """
import os, subprocess, sys
from serving.engine.orphans import die_with_starter
die_with_starter()
if os.fork() == 0:
    sys.exit(subprocess.call([sys.executable, "-c", sys.argv[1]]))
os.wait()
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {PARENT_PID: str(os.getpid()), "PYTHONPATH": str(Path(__file__).parents[3])}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", *arguments], env=environment, stdin=pipe, stdout=pipe, text=True)


def test_a_child_that_was_slow_to_begin_does_not_outlive_a_parent_killed_before() -> None:
    with started(PARENT, SLOW_CHILD) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        parent.wait()
        parent.stdin.write("go on\n")
        parent.stdin.flush()
        assert parent.stdout.read() == ""


def test_what_a_fork_starts_knows_the_fork_as_its_parent() -> None:
    with started(FORKS, SLOW_CHILD) as parent:
        assert parent.communicate("go on\n")[0] == "started\nlives on\n"
