"""Dockerfile and Compose files: linted, read by the real Compose, and what they start says what it lacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from serving.engine.hardware import Gpu, Machine
from serving.engine.plan import plan
from serving.settings import MODEL_NAMES, PREFIX, Settings
from tests.deploy.manifests import pods, rendered
from tests.deploy.processes import ROOT
from tests.deploy.tools import BIN, program

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

DOCKER = ROOT / "docker"
COMPOSE = {
    "cpu": ["compose.yaml"],
    "gpu": ["compose.gpu.yaml"],
    "full on CPU": ["compose.yaml", "compose.full.yaml"],
    "full on GPU": ["compose.gpu.yaml", "compose.full.yaml"],
    "triton": ["triton/compose.yaml"],
}
# What the launcher adds for a child of the gateway, or chooses by the machine.
OF_THE_MACHINE = {"--served-model-name"}


def test_the_dockerfile_is_linted() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_reads_the_files(name: str, tmp_path: Path) -> None:
    compose = program("docker-compose")
    subprocess.run(["sh", DOCKER / "scripts" / "make-secrets.sh", tmp_path / "secrets"], check=True)
    files = [part for file in COMPOSE[name] for part in ("-f", str(DOCKER / file))]
    environment = {**os.environ, "HOMESCOPE_MODELS": "/srv/models", "HOMESCOPE_SECRETS": str(tmp_path / "secrets")}
    done = subprocess.run(
        [compose, *files, "--profile", "*", "config", "-q"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in COMPOSE[name]:
        for service, told in yaml.safe_load((DOCKER / file).read_text())["services"].items():
            found.setdefault(service, {}).update(told)
    return found


def networks(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in COMPOSE[name]:
        found |= yaml.safe_load((DOCKER / file).read_text())["networks"]
    return found


@pytest.mark.parametrize("name", COMPOSE)
def test_each_setting_exists(name: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    secrets = (DOCKER / "scripts" / "with-secrets.sh").read_text()
    for variable in services(name)["gateway"]["environment"]:
        if variable.endswith("_FILE"):
            assert re.search(rf"\b{variable.removesuffix('_FILE')}\b", secrets)
        elif variable.startswith(PREFIX):
            assert variable in known


@pytest.mark.parametrize("name", COMPOSE)
def test_the_engine_has_no_way_out(name: str) -> None:
    assert networks(name)["engine"] == {"internal": True}
    for service, told in services(name).items():
        if service.startswith("engine") or service == "triton":
            assert set(told["networks"]) == {"engine"}


@pytest.mark.parametrize("name", COMPOSE)
def test_what_is_published_is_reached(name: str) -> None:
    """Docker publishes no port of a container that is in internal networks alone."""
    inside = {network for network, told in networks(name).items() if told.get("internal")}
    for service, told in services(name).items():
        if told.get("ports"):
            assert set(told["networks"]) - inside, service


@pytest.mark.parametrize(
    ("name", "service", "giver"),
    [("gpu", "engine-0", "cache"), ("gpu", "engine-1", "cache"), ("full on CPU", "minio", "minio-data")],
)
def test_a_volume_belongs_to_who_writes_it(name: str, service: str, giver: str) -> None:
    """vLLM's image has no /cache, and MinIO's no /data: Docker makes such volumes for root."""
    writes, gives = services(name)[service], services(name)[giver]
    chown, user, folder = gives["entrypoint"]
    assert (chown, user, gives["user"]) == ("chown", writes["user"], "0:0")
    (volume,) = gives["volumes"]
    assert volume in writes["volumes"]
    assert volume.endswith(f":{folder}")
    assert writes["depends_on"][giver] == {"condition": "service_completed_successfully"}
    assert (gives["network_mode"], gives["cap_drop"], gives["cap_add"]) == ("none", ["ALL"], ["CHOWN"])


def started(
    tmp_path: Path, model: Path, gpus: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """docker/scripts/vllm.sh with a vLLM that prints what it is given, and these GPUs (MiB, one a line)."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "vllm").write_text('#!/bin/sh\nfor each; do printf "%s\\n" "$each"; done\n')
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n[ -n '{gpus}' ] && printf '{gpus}\\n'\n")
    for made in programs.iterdir():
        made.chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "MODEL": str(model), **environment}
    script = DOCKER / "scripts" / "vllm.sh"
    return subprocess.run(["sh", script, *arguments], env=given, capture_output=True, text=True, check=False)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_the_engine_of_the_containers_is_started_as_the_launcher_starts_it(tmp_path: Path, weights: Path) -> None:
    done = started(tmp_path, weights, "143771")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    machine = Machine("Linux x86_64", 64, 512, frozenset({"avx2"}), (Gpu("H200", 139.8, 9.0),), "gpu")
    argv = plan(machine, served_names=MODEL_NAMES).argv
    wanted = argv[argv.index("serve") + 2 :]
    for flag, value in zip(wanted, [*wanted[1:], "--"], strict=True):
        if flag.startswith("--"):
            assert flag in told, flag
            if not value.startswith("--") and flag not in OF_THE_MACHINE:
                assert told[told.index(flag) + 1] == value, flag
    names = told[told.index("--served-model-name") + 1 :][: len(MODEL_NAMES)]
    assert tuple(names) == MODEL_NAMES


def test_missing_weights_are_said(tmp_path: Path) -> None:
    done = started(tmp_path, tmp_path / "nothing", "143771")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no config.json" in done.stderr


def test_a_download_that_was_cut_off_is_said(tmp_path: Path, weights: Path) -> None:
    (weights / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    done = started(tmp_path, weights, "143771")
    assert done.returncode == 2
    assert "model-00001-of-00002.safetensors is missing" in done.stderr


@pytest.mark.parametrize(
    ("gpus", "environment", "said"),
    [
        ("", {}, "no NVIDIA GPU is visible"),
        ("2048", {}, "the smallest has 2048 MiB"),
        ("143771", {"TENSOR_PARALLEL": "2"}, "want 2 GPUs, the container has 1"),
    ],
)
def test_gpus_that_do_not_do_are_said(
    tmp_path: Path, weights: Path, gpus: str, environment: dict[str, str], said: str
) -> None:
    done = started(tmp_path, weights, gpus, **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


ENGINES = [("gpu", "engine"), ("gpu-fp8", "engine"), ("multi-gpu", "engine")]
ENGINES += [("multi-node", "leaderTemplate"), ("multi-node", "workerTemplate")]
GIVEN_BY_THE_SET = {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1", "LWS_LEADER_ADDRESS": "engine-group-0.engine-group"}
PARSE = """
import json, sys
from serving.engine.vision_operators import define_missing
define_missing()
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.entrypoints.launchers.cli_args import make_arg_parser
parser = make_arg_parser(FlexibleArgumentParser())
for told in json.load(sys.stdin):
    parser.parse_args(told)
"""


def test_each_flag_is_one_of_this_vllm(tmp_path: Path, weights: Path) -> None:
    """What each pod makes of the script, read by the parser of the vLLM that is installed."""
    commands = [_served(tmp_path, weights, overlay, role) for overlay, role in ENGINES]
    command = [sys.executable, "-c", PARSE]
    done = subprocess.run(command, input=json.dumps(commands), capture_output=True, text=True, check=False)
    if "No module named 'vllm.entrypoints.launchers.cli_args'" in done.stderr:
        pytest.skip("this vLLM keeps its parser elsewhere")
    assert done.returncode == 0, done.stderr[-2000:]


def _served(tmp_path: Path, weights: Path, overlay: str, role: str) -> list[str]:
    """The arguments of `vllm serve` in a pod."""
    (container,) = dict(pods(rendered(overlay)))[role]["containers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    environment = {name: _expanded(value) for name, value in given.items() if name not in UNMOVED}
    arguments = [_expanded(each) for each in container.get("args", [])]
    done = started(tmp_path, weights, "\\n".join(["143771"] * 8), *arguments, **environment)
    told = done.stdout.splitlines()
    assert set(arguments) <= set(told), done.stderr
    return told[2:]


UNMOVED = {"MODEL", "HOME", "USER"}
"""Of the container's file system, not of this one."""


def _expanded(text: str) -> str:
    """As Kubernetes does with $(NAME)."""
    return re.sub(r"\$\((\w+)\)", lambda found: GIVEN_BY_THE_SET[found[1]], text)


def test_a_secret_that_is_missing_is_said(tmp_path: Path) -> None:
    script = DOCKER / "scripts" / "with-secrets.sh"
    environment = {"PATH": os.environ["PATH"], "HOMESCOPE_ENGINE_KEY_FILE": str(tmp_path / "none")}
    done = subprocess.run(["sh", script, "true"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "HOMESCOPE_ENGINE_KEY_FILE" in done.stderr


def test_a_secret_is_what_is_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a b'c\n")
    script = DOCKER / "scripts" / "with-secrets.sh"
    environment = {"PATH": os.environ["PATH"], "HOMESCOPE_ENGINE_KEY_FILE": str(tmp_path / "key")}
    done = subprocess.run(["sh", script, "env"], env=environment, capture_output=True, text=True, check=True)
    assert "HOMESCOPE_ENGINE_KEY=a b'c\n" in done.stdout
    assert "_FILE" not in done.stdout


def heartbeat(file: Path, seconds: str) -> subprocess.CompletedProcess[str]:
    script = DOCKER / "scripts" / "heartbeat.sh"
    return subprocess.run(["sh", script, file, seconds], capture_output=True, text=True, check=False)


def test_a_worker_lives_whose_file_is_new(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    said = heartbeat(file, "60")
    assert (said.returncode, "has not reached its broker yet" in said.stderr) == (1, True)
    file.touch()
    assert heartbeat(file, "60").returncode == 0
    os.utime(file, (time.time() - 90, time.time() - 90))
    said = heartbeat(file, "60")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "s old: the worker hangs, or its broker or database does not answer" in said.stderr
    assert heartbeat(file, "300").returncode == 0
