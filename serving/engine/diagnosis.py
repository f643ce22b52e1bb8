from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine.progress import last_words

PORT_TAKEN = "its port was taken by another program"

CAUSES = (
    (re.compile(r"[Aa]ddress already in use"), PORT_TAKEN, False),
    (
        re.compile(
            r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|larger than the available "
            r"KV cache memory|Free memory on device|less than requested memory for kv|less than desired CPU memory|"
            r"DefaultCPUAllocator: can't allocate memory|Cannot allocate memory|\bMemoryError"
        ),
        "out of memory: stop other programs that use it, or choose a smaller model with HOMESCOPE_MODEL",
        True,
    ),
    (
        re.compile(r"No space left on device"),
        "the disk is full: free some space, weights and compiled code are kept in ~/.cache",
        True,
    ),
    (
        re.compile(
            r"is not a valid model identifier|Repository Not Found|RepositoryNotFoundError|GatedRepoError|"
            r"does not appear to have a file named|Invalid repository ID or local directory"
        ),
        "the model was not found: check the folder or name in HOMESCOPE_MODEL",
        True,
    ),
    (
        re.compile(r"LocalEntryNotFoundError|couldn't connect to '?https://huggingface|OfflineModeIsEnabled"),
        "the model is not on this machine and the hub cannot be reached: download it first, and name its folder in "
        "HOMESCOPE_MODEL",
        True,
    ),
    (
        re.compile(r"are not supported for now|Model architectures .* (failed|is not)"),
        "vLLM cannot serve this model: choose another with HOMESCOPE_MODEL",
        True,
    ),
    (
        re.compile(r"No module named '(?:vllm|torch|serving)[\w.]*'|libcuda\.so|libcudart\.so"),
        "vLLM's installation is incomplete: install it again (make setup)",
        True,
    ),
    (
        re.compile(r"error: (?:unrecognized|argument) .*"),
        "this version of vLLM does not know a flag it was given",
        True,
    ),
)

ENGINE_DIED = re.compile(r"EngineDeadError|died unexpectedly")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an engine ended, for a person."""

    cause: str
    hopeless: bool
    """Whether starting it again, unchanged, would end the same way."""
    evidence: tuple[str, ...]
    """The lines of its log that say so."""


def diagnose(lines: Sequence[str], returncode: int | None) -> Diagnosis:
    """What the log and the exit code of an engine that ended say about the cause. None: it was ended for silence."""
    for pattern, cause, hopeless in CAUSES:
        matching = [line for line in lines if pattern.search(line)]
        if matching:
            return Diagnosis(cause, hopeless, tuple(last_words(matching, 1)))
    cause = _exit(returncode)
    if returncode in (0, 1) and any(ENGINE_DIED.search(line) for line in lines):
        cause = "the process that runs the model ended unexpectedly"
    return Diagnosis(cause, returncode == -signal.SIGILL, tuple(last_words(lines)))


def _exit(returncode: int | None) -> str:
    if returncode is None:
        return "it gave no sign of life any more"
    if returncode == -signal.SIGKILL:
        return "it was killed (SIGKILL), most often because the machine ran out of memory"
    if returncode == -signal.SIGILL:
        return "this CPU lacks instructions that vLLM was built for (SIGILL)"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it stopped with exit code {returncode}"
