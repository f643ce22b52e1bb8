"""A RabbitMQ of the tests' own, from the Debian package."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.ports import free_port


class NoRabbit(Exception):
    """Raised when the package is not installed; the text says which."""


def _program() -> Path:
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found or shutil.which("erl") is None:
        raise NoRabbit("no RabbitMQ here: apt-get install rabbitmq-server")
    return found[-1]


class Rabbit:
    """One node in a folder of its own; `kill` and `start` again keep the folder."""

    def __init__(self) -> None:
        self._program = _program()
        self._folder = Path(tempfile.mkdtemp(prefix="rabbit"))
        self._ports = [free_port() for _ in range(3)]
        self._process: subprocess.Popen[bytes] | None = None
        self._listening: threading.Thread | None = None
        self.url = f"amqp://guest:guest@127.0.0.1:{self._ports[0]}/"

    def start(self) -> None:
        """Returns when it takes connections."""
        folder, (port, distribution, mapper) = self._folder, self._ports
        named = {
            "RABBITMQ_NODENAME": f"tests{port}@localhost", "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"), "RABBITMQ_LOG_BASE": str(folder), "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"), "ERL_EPMD_PORT": str(mapper), "HOME": str(folder),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [str(self._program)], env=os.environ | named, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        up = threading.Event()
        self._listening = threading.Thread(target=_listen, args=(self._process.stdout, up), daemon=True)
        self._listening.start()
        if not up.wait(150):
            self.stop()
            raise RuntimeError("RabbitMQ did not start in 150 s")

    def kill(self) -> None:
        """As kill -9 does, the whole node."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            assert self._listening is not None
            self._listening.join(10)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def stop(self) -> None:
        """The node, the port mapper that Erlang leaves behind, and the folder."""
        self.kill()
        for found in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError, ValueError):
                if f"ERL_EPMD_PORT={self._ports[2]}".encode() in found.read_bytes():
                    os.kill(int(found.parent.name), signal.SIGKILL)
        time.sleep(0.1)
        shutil.rmtree(self._folder, ignore_errors=True)


def _listen(lines: object, up: threading.Event) -> None:
    for line in lines:  # type: ignore[attr-defined]
        if b"Server startup complete" in line:
            up.set()


def rabbit() -> Iterator[Rabbit]:
    """A node that lives as long as the tests that share it."""
    node = Rabbit()
    try:
        node.start()
        yield node
    finally:
        node.stop()
