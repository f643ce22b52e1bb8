"""Dockerfile and Compose files: linted, read by the real Compose, and what they start says what it lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from serving.engine.hardware import Gpu, Machine
from serving.engine.plan import plan
from serving.settings import MODEL_NAMES, PREFIX, Settings
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
    networks: dict[str, Any] = {}
    for file in COMPOSE[name]:
        networks |= yaml.safe_load((DOCKER / file).read_text())["networks"]
    assert networks["engine"] == {"internal": True}
    for service, told in services(name).items():
        if service.startswith("engine") or service == "triton":
            assert set(told["networks"]) == {"engine"}


def started(tmp_path: Path, model: Path, gpus: str, **environment: str) -> subprocess.CompletedProcess[str]:
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
    return subprocess.run(["sh", script], env=given, capture_output=True, text=True, check=False)


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


def test_each_flag_is_one_of_this_vllm(tmp_path: Path, weights: Path) -> None:
    told = started(tmp_path, weights, "143771\\n143771", TENSOR_PARALLEL="2").stdout.splitlines()
    parse = (
        "from serving.engine.vision_operators import define_missing; define_missing()\n"
        "import sys; from vllm.utils.argparse_utils import FlexibleArgumentParser as P\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser as m\n"
        "m(P()).parse_args(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", parse, *told[2:]], capture_output=True, text=True, check=False)
    if "No module named 'vllm.entrypoints.launchers.cli_args'" in done.stderr:
        pytest.skip("this vLLM keeps its parser elsewhere")
    assert done.returncode == 0, done.stderr[-2000:]


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
