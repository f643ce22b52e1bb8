import json
from pathlib import Path

import pytest

from serving.engine.hardware import Gpu, Machine, detect, parse_nvidia_smi
from serving.engine.plan import BF16_MODEL, DEMO_MODEL, FP8_MODEL, LaunchError, LaunchPlan, plan

H200 = Gpu("NVIDIA H200", 140.4, 9.0)
H100 = Gpu("NVIDIA H100 80GB HBM3", 79.6, 9.0)
A100 = Gpu("NVIDIA A100-SXM4-80GB", 80.0, 8.0)
A100_40 = Gpu("NVIDIA A100-SXM4-40GB", 40.0, 8.0)
L40S = Gpu("NVIDIA L40S", 45.0, 8.9)
A6000 = Gpu("NVIDIA RTX A6000", 48.0, 8.6)
RTX_5090 = Gpu("NVIDIA GeForce RTX 5090", 31.8, 12.0)
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", 24.0, 8.9)
RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", 12.0, 8.6)
V100 = Gpu("Tesla V100-SXM2-32GB", 32.0, 7.0)


def machine(*gpus: Gpu, cpus: int = 2, memory_gib: float = 24, system: str = "Linux x86_64") -> Machine:
    return Machine(system, cpus, memory_gib, frozenset({"avx2"}), gpus, "gpu" if gpus else "cpu")


def value(found: LaunchPlan, flag: str) -> str | None:
    return found.argv[found.argv.index(flag) + 1] if flag in found.argv else None


@pytest.mark.parametrize(
    ("gpus", "model", "context", "cards"),
    [
        ((H200,), BF16_MODEL, "32768", None),
        ((H200, H200), BF16_MODEL, "32768", None),
        ((H100,), FP8_MODEL, "32768", None),
        ((A100,), BF16_MODEL, "32768", None),
        ((L40S,), FP8_MODEL, "32768", None),
        ((A6000,), FP8_MODEL, "32768", None),
        ((A100_40,), FP8_MODEL, "32768", None),
        ((A100_40, A100_40), FP8_MODEL, "32768", None),
        ((RTX_5090, RTX_5090), FP8_MODEL, "32768", "2"),
        ((RTX_4090, RTX_4090), FP8_MODEL, "32768", "2"),
        ((RTX_3060,) * 4, FP8_MODEL, None, None),
    ],
)
def test_chooses_weights_and_context_by_the_card(
    gpus: tuple[Gpu, ...], model: str, context: str | None, cards: str | None
) -> None:
    if context is None:
        with pytest.raises(LaunchError):
            plan(machine(*gpus))
        return
    found = plan(machine(*gpus))
    assert (found.model, value(found, "--max-model-len"), value(found, "--tensor-parallel-size")) == (
        model,
        context,
        cards,
    )


def test_splits_fp8_by_expert_where_its_blocks_do_not_divide() -> None:
    found = plan(machine(*(Gpu("small", 16.0, 8.9),) * 4))
    assert value(found, "--tensor-parallel-size") == "4"
    assert "--enable-expert-parallel" in found.argv
    assert "--enable-expert-parallel" not in plan(machine(RTX_4090, RTX_4090)).argv


@pytest.mark.parametrize(
    ("gpus", "model", "message"),
    [
        ((RTX_5090,), None, "needs 40 GB .*; this is NVIDIA GeForce RTX 5090 with 32 GiB.*Qwen3-VL-8B-Instruct fits"),
        ((RTX_3060,), None, "Qwen3-VL-4B-Instruct fits: set HOMESCOPE_MODEL=Qwen/Qwen3-VL-4B-Instruct"),
        ((V100,), None, "compute capability 7.0, too old for it"),
        ((L40S,), BF16_MODEL, f"{BF16_MODEL} needs 80 GB .* {FP8_MODEL} fits: set HOMESCOPE_MODEL={FP8_MODEL}"),
        ((Gpu("tiny", 4.0, 8.6),), None, "No model of the family fits, or name a vLLM on another machine"),
    ],
)
def test_says_what_would_fit_a_gpu_that_is_too_small(gpus: tuple[Gpu, ...], model: str | None, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        plan(machine(*gpus), model=model)


def test_a_large_gpu_gets_the_flags_of_a_large_gpu() -> None:
    found = plan(machine(H200), served_names=("qwen3-vl-30b", "mine"))
    assert found.argv[1:5] == ("-m", "serving.engine.vllm_server", "serve", BF16_MODEL)
    names = found.argv.index("--served-model-name")
    assert found.argv[names + 1 : names + 3] == ("qwen3-vl-30b", "mine")
    assert value(found, "--max-num-batched-tokens") == "16384"
    assert value(found, "--max-num-seqs") == "256"
    assert value(found, "--api-server-count") == "4"
    assert found.env["OMP_NUM_THREADS"] == "1"
    assert "HF_HUB_OFFLINE" not in found.env
    assert found.folder is None


def test_a_cpu_gets_the_demo_model() -> None:
    found = plan(machine(), served_names=("a", "b"))
    assert found.model == str(DEMO_MODEL)
    assert found.folder == DEMO_MODEL
    assert found.served_names == ("a", "b")
    assert value(found, "--model") == str(DEMO_MODEL)
    assert "--enforce-eager" in found.argv
    assert json.loads(value(found, "--structured-outputs-config") or "")["disable_any_whitespace"] is True
    assert found.env["TORCH_COMPILE_DISABLE"] == "1"
    assert found.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert found.env["HF_HUB_OFFLINE"] == "1"
    assert found.env["PYTHONDONTWRITEBYTECODE"] is None
    assert plan(machine(), model="demo").argv == plan(machine()).argv


@pytest.mark.parametrize(
    ("cpus", "model", "threads"),
    [(1, None, "1"), (2, None, "1"), (64, None, "1"), (1, "/m", "1"), (2, "/m", "1"), (64, "/m", "63")],
)
def test_leaves_a_cpu_to_the_gateway(cpus: int, model: str | None, threads: str) -> None:
    assert plan(machine(cpus=cpus), model=model).env["ENGINE_THREADS"] == threads


@pytest.mark.parametrize("found", [plan(machine()), plan(machine(H200)), plan(machine(), model="/some/folder")])
def test_every_start_has_what_the_gateway_relies_on(found: LaunchPlan) -> None:
    assert "--enable-prompt-tokens-details" in found.argv
    assert value(found, "--scheduling-policy") == "priority"
    assert json.loads(value(found, "--limit-mm-per-prompt") or "")["video"] == 64
    assert value(found, "--tool-call-parser") == "hermes"
    assert value(found, "--allowed-media-domains") == "none.invalid"
    assert not {"--host", "--port", "--api-key"} & set(found.argv)


@pytest.mark.parametrize(
    ("facts", "model", "message"),
    [
        (Machine("Linux x86_64", 2, 8, frozenset({"avx2"}), (), None), None, "vLLM is not installed"),
        (Machine("Linux x86_64", 2, 8, frozenset({"sse"}), (), "cpu"), None, "this is Linux x86_64 without AVX2"),
        (Machine("Darwin arm64", 2, 8, frozenset({"avx2"}), (), "cpu"), None, "this is Darwin arm64"),
        (Machine("Linux x86_64", 2, 8, frozenset(), (), "gpu"), None, "nvidia-smi finds no NVIDIA GPU"),
        (machine(), BF16_MODEL, "needs an NVIDIA GPU of 40 GB or more and vLLM's CUDA build"),
    ],
)
def test_says_what_to_do_where_nothing_can_run(facts: Machine, model: str | None, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        plan(facts, model=model)


def test_says_that_a_gpu_stays_idle_under_the_cpu_build() -> None:
    facts = Machine("Linux x86_64", 8, 32, frozenset({"avx2"}), (H200,), "cpu")
    assert "NVIDIA H200 is not used: vLLM's CPU build is installed" in plan(facts).summary


def test_a_hub_name_is_no_folder_unless_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(machine(), model="Qwen/Qwen3-VL-2B-Instruct").folder is None
    (tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct").mkdir(parents=True)
    assert plan(machine(), model="Qwen/Qwen3-VL-2B-Instruct").folder is not None


def test_reads_what_nvidia_smi_prints() -> None:
    assert parse_nvidia_smi("NVIDIA H200, 143771, 9.0\nOdd, name, 24564, 8.9\n") == (
        Gpu("NVIDIA H200", 143771 / 1024, 9.0),
        Gpu("Odd, name", 24564 / 1024, 8.9),
    )
    assert parse_nvidia_smi("\n") == ()


def test_finds_the_facts_of_this_machine() -> None:
    found = detect()
    assert found.cpus >= 1
    assert found.memory_gib > 0.1


@pytest.mark.parametrize(
    ("model", "parser"),
    [("Qwen/Qwen3-VL-8B-Thinking", "qwen3"), ("Qwen/Qwen3-VL-8B-Instruct", None), ("demo", None)],
)
def test_only_thoughts_are_looked_for_in_the_answers_of_a_thinking_model(model: str, parser: str | None) -> None:
    assert value(plan(machine(), model=model), "--reasoning-parser") == parser
