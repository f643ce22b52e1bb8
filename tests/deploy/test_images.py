"""The images of the gateway and the client are built and run, on a base that is made here from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.processes import ROOT
from tests.deploy.tools import program
from tests.ports import free_port

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3600)]

TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
BASE = "docker.io/library/debian:12-slim"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LIMITS = ("--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")


class Store:
    """A place of images of its own, thrown away at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = places(folder, "overlay" if overlays(folder) else "vfs")
        self.policy = folder / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def buildah(self, *arguments: str | Path) -> str:
        return run("buildah", *self.places, *arguments)

    def podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = ("--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
        command = ["podman", *self.places, *kept, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.podman("run", *LIMITS, *HARDENED, *arguments)


def places(folder: Path, driver: str) -> tuple[str, ...]:
    return ("--root", str(folder / driver), "--runroot", str(folder / "run"), "--storage-driver", driver)


def overlays(folder: Path) -> bool:
    """Whether layers can be laid over each other here; else each is a copy of all below it, 20 of them for an image."""
    tried = places(folder / "tried", "overlay")
    container = subprocess.run(["buildah", *tried, "from", "scratch"], capture_output=True, text=True, check=False)
    if container.returncode == 0:
        mounted = ["buildah", *tried, "mount", container.stdout.strip()]
        mount = subprocess.run(mounted, capture_output=True, check=False)
        subprocess.run(["buildah", *tried, "rm", "--all"], capture_output=True, check=False)
        return mount.returncode == 0
    return False


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    for tool in TOOLS:
        program(tool)
    if os.geteuid() != 0:
        pytest.skip("building images wants root")
    made = Store(tmp_path_factory.mktemp("images"))
    base = made.folder / "base.tar"
    run("mmdebstrap", "--variant=minbase", "bookworm", base)
    container = made.buildah("from", "scratch")
    made.buildah("add", container, base, "/")
    made.buildah("commit", "--rm", container, BASE)
    base.unlink()
    for target in ("gateway", "client"):
        build(made, target)
    yield made
    made.buildah("rm", "--all")
    shutil.rmtree(made.folder, ignore_errors=True)


def build(store: Store, target: str) -> None:
    secrets = ["--secret", f"id=ca.crt,src={CERTIFICATES}"] if CERTIFICATES.exists() else []
    # --layers: what the images have in common, packages of Debian and the wheel of homescope, is made once.
    options = (
        "--isolation",
        "chroot",
        "--pull-never",
        "--format",
        "docker",
        "--signature-policy",
        store.policy,
        "--layers",
    )
    file = ROOT / "docker" / "Dockerfile"
    store.buildah("bud", *options, *secrets, "-f", file, "--target", target, "-t", f"homescope-{target}:test", ROOT)


def test_a_wrong_setting_stops_the_container_with_one_line(store: Store) -> None:
    done = store.run("--rm", "-e", "HOMESCOPE_PROT=1", "homescope-gateway:test")
    assert done.returncode == 2
    assert "HOMESCOPE_PROT is not a setting of homescope-server; the nearest one is HOMESCOPE_PORT" in done.stderr


def test_nothing_of_the_build_is_left_and_nobody_is_root(store: Store) -> None:
    done = store.run("--rm", "homescope-gateway:test", "sh", "-c", "id -u; command -v pip gcc cc make git; true")
    assert done.stdout.split() == ["10001"], done.stdout
    processor = "/opt/homescope/lib/python3.11/site-packages/serving/demo/model/preprocessor_config.json"
    assert store.run("--rm", "homescope-gateway:test", "test", "-f", processor).returncode == 0


def test_the_client_knows_its_commands(store: Store) -> None:
    done = store.run("--rm", "homescope-client:test", "homescope", "pipeline", "work", "--help")
    assert done.returncode == 0, done.stderr
    assert "--broker" in done.stdout


def test_a_worker_lives_as_its_probe_says(store: Store) -> None:
    command = ("homescope", "pipeline", "work", "--data", "/data", "--heartbeat", "/tmp/heartbeat")
    server = ("-e", "DASHSCOPE_HTTP_BASE_URL=http://127.0.0.1:9/api/v1", "-e", "DASHSCOPE_API_KEY=sk-test")
    assert store.run("-d", "--name", "worker", *server, "homescope-client:test", *command).returncode == 0
    try:
        while (asked := store.podman("exec", "worker", "heartbeat", "/tmp/heartbeat", "30")).returncode != 0:
            assert "has not reached its broker yet" in asked.stderr, store.podman("logs", "worker").stderr
        assert store.podman("stop", "--time", "30", "worker").returncode == 0
        assert store.podman("inspect", "worker", "--format", "{{.State.ExitCode}}").stdout.strip() == "0"
    finally:
        store.podman("rm", "--force", "--volumes", "worker")


@pytest.mark.parametrize(("target", "most"), [("gateway", 400), ("client", 900)])
def test_an_image_is_small(store: Store, target: str, most: int) -> None:
    """MB beyond the base; what is not in the libraries is 60 MB of Python, and no cache of apt's."""
    assert size(store, f"homescope-{target}:test") - size(store, BASE) < most * 1_000_000


def size(store: Store, image: str) -> int:
    return int(store.podman("image", "inspect", image, "--format", "{{.Size}}").stdout)


def test_the_gateway_serves_is_healthy_and_stops(store: Store) -> None:
    port = free_port()
    settings = ("-e", f"HOMESCOPE_PORT={port}", "-e", "HOMESCOPE_ENGINE_URLS=http://127.0.0.1:9")
    assert store.run("-d", "--name", "gateway", *settings, "homescope-gateway:test").returncode == 0
    try:
        alive(f"http://127.0.0.1:{port}/livez")
        assert store.podman("healthcheck", "run", "gateway").returncode == 0
        assert store.podman("stop", "--time", "30", "gateway").returncode == 0
        assert store.podman("inspect", "gateway", "--format", "{{.State.ExitCode}}").stdout.strip() == "0"
    finally:
        store.podman("rm", "--force", "gateway")


def alive(url: str) -> None:
    transport = httpx.HTTPTransport(retries=10)
    with httpx.Client(transport=transport, trust_env=False, timeout=30) as client:
        assert client.get(url).status_code == 200
