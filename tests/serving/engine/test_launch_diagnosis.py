import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest

from serving.engine.diagnosis import PORT_TAKEN, diagnose
from serving.engine.progress import KEPT_LOGS, LogFile, Stages, last_words

CORE = "(EngineCore pid=9014) ERROR 11-22 15:39:21 [core.py:1210] "


@pytest.mark.parametrize(
    ("line", "cause", "hopeless"),
    [
        ("OSError: [Errno 98] error while binding: address already in use", PORT_TAKEN, False),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 594.00 MiB", "out of memory", True),
        ("ValueError: Free memory on device (3.1/24.0 GiB) on startup is less than desired", "out of memory", True),
        ("ValueError: No available memory for the cache blocks.", "out of memory", True),
        ("OSError: [Errno 28] No space left on device", "the disk is full", True),
        ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", "the model was not found", True),
        ("ModuleNotFoundError: No module named 'vllm'", "installation is incomplete", True),
        ("ValueError: Model architectures ['X'] are not supported for now.", "cannot serve this model", True),
        ("vllm_server.py: error: unrecognized arguments: --nonsense", "does not know a flag", True),
    ],
)
def test_names_the_cause(line: str, cause: str, hopeless: bool) -> None:
    found = diagnose(["INFO fine", CORE + line, "after"], 1)
    assert cause in found.cause
    assert found.hopeless is hopeless
    assert found.evidence == (line,)


@pytest.mark.parametrize(
    ("returncode", "cause"),
    [
        (-signal.SIGKILL, "it was killed (SIGKILL), most often because the machine ran out of memory"),
        (-signal.SIGILL, "this CPU lacks instructions that vLLM was built for (SIGILL)"),
        (-signal.SIGSEGV, "it was ended by SIGSEGV"),
        (3, "it stopped with exit code 3"),
        (None, "it gave no sign of life any more"),
    ],
)
def test_explains_an_exit_without_a_known_line(returncode: int | None, cause: str) -> None:
    assert diagnose([], returncode).cause == cause


def test_an_exit_code_of_0_after_the_engine_died_is_no_success() -> None:
    log = ["vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."]
    assert diagnose(log, 0).cause == "the process that runs the model ended unexpectedly"


def test_last_words_are_causes_not_consequences() -> None:
    log = [
        "(APIServer pid=1) INFO 11-22 15:39:04 [api_utils.py:286] non-default args: {}",
        CORE + "Traceback (most recent call last):",
        CORE + '  File "core.py", line 12, in run',
        CORE + "KeyError: 'layers.0.mlp.experts.w2_weight'",
        "Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert last_words(log) == ["KeyError: 'layers.0.mlp.experts.w2_weight'"]
    assert last_words(log[-1:]) == log[-1:]
    assert last_words(["a", "", "b", "b"]) == ["a", "b"]


def test_a_stage_is_said_once_and_never_after_a_later_one() -> None:
    stages = Stages()
    lines = [
        "(APIServer pid=2) INFO 11-22 15:39:04 [api_utils.py:286] non-default args: {'host': '127.0.0.1'}",
        "WARNING [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.",
        "(EngineCore pid=3) INFO 11-22 15:39:17 [cpu_model_runner.py:68] Starting to load model /m...",
        "(EngineCore pid=3) INFO 11-22 15:39:17 [default_loader.py:501] Loading weights took 0.04 seconds",
        "(EngineCore pid=3) INFO 11-22 15:39:17 [cpu_model_runner.py:68] Starting to load model /m...",
        "(APIServer pid=2) INFO 11-22 15:39:20 [entry.py:140] Starting vLLM server on http://127.0.0.1:21326",
    ]
    assert [stage for stage in map(stages.of, lines) if stage] == [
        "reading the model's configuration",
        "loading the weights",
        "preparing the cache and warming up",
        "opening the port",
    ]


def test_keeps_the_logs_of_earlier_starts_but_not_for_ever(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path / "logs")) as log:
        for number in range(KEPT_LOGS + 2):
            log.rotate()
            log.path.write_text(f"start {number}\n")
    kept = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert len(kept) == KEPT_LOGS
    assert kept["engine.log"] == f"start {KEPT_LOGS + 1}\n"
    assert kept["engine.1.log"] == f"start {KEPT_LOGS}\n"


def test_reads_a_line_when_it_is_whole(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path)) as log:
        log.rotate()
        with log.path.open("ab", buffering=0) as file:
            file.write("eins\nzw\u00f6".encode()[:-1])
            assert list(log.new_lines()) == ["eins"]
            file.write("\u00f6lf\n".encode()[1:])
            assert list(log.new_lines()) == ["zw\u00f6lf"]
        assert log.tail() == ["eins", "zw\u00f6lf"]


def test_a_second_server_on_the_folder_does_not_mix_up_the_logs(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path)) as ours, closing(LogFile(tmp_path)) as theirs:
        ours.rotate()
        with ours.path.open("ab", buffering=0) as file:
            theirs.rotate()
            theirs.path.write_text("theirs\n")
            file.write(b"ours\n")
        assert (list(ours.new_lines()), ours.tail()) == (["ours"], ["ours"])


def test_a_log_that_was_deleted_can_still_be_read(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path / "logs")) as log:
        log.rotate()
        log.path.write_text("last words\n")
        shutil.rmtree(tmp_path / "logs")
        assert (list(log.new_lines()), log.tail()) == (["last words"], ["last words"])
