from dataclasses import replace
from pathlib import Path

import pytest
import torch

from serving.demo.supply import Settings
from serving.demo.train import Trainer, alone, learning_rate, parse
from tests.serving.demo.training.conftest import SHAPE, Small

STEPS = 4
pytestmark = pytest.mark.timeout(180)  # seconds of training when the machine is free, minutes when it is not


@pytest.fixture
def settings(tmp_path: Path, small: Small) -> Settings:
    folder = tmp_path / "run"
    folder.mkdir()
    small.tokenizer.save(str(folder / "tokenizer.json"))
    return Settings(
        folder=folder, batch=4, processes=1, vision_steps=2, steps=STEPS, warmup_steps=2, save_every=2, model=SHAPE
    )


def states(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.optimiser.state().items() if isinstance(value, torch.Tensor)}


def test_a_killed_run_resumes_to_the_state_of_an_unbroken_one(settings: Settings, tmp_path: Path) -> None:
    broken = Trainer(settings)
    for _ in range(2):
        broken.train_step()
    broken.save()
    broken.train_step()  # never saved: what a kill loses
    resumed = Trainer(settings)
    assert (resumed.resumed, resumed.step) == (True, 2)
    resumed.run()

    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((settings.folder / "tokenizer.json").read_bytes())
    unbroken = Trainer(replace(settings, folder=other))
    unbroken.run()
    for name, value in states(unbroken).items():
        torch.testing.assert_close(states(resumed)[name], value, rtol=0, atol=0, msg=name)


def test_training_lowers_the_loss(settings: Settings) -> None:
    trainer = Trainer(replace(settings, vision_steps=0, talk_share=1.0))
    batch = trainer.supply.batch(0)
    with torch.no_grad():
        before = float(trainer.loss(batch, talk=True))
    for _ in range(6):
        trainer.loss(batch, talk=True).backward()
        trainer.optimiser.step(2e-3)
    with torch.no_grad():
        assert float(trainer.loss(batch, talk=True)) < before


def test_a_step_that_is_not_finite_is_skipped(settings: Settings) -> None:
    trainer = Trainer(settings)
    before = trainer.flat.masters.clone()
    trainer.flat.gradients.fill_(float("nan"))
    trainer.optimiser.step(1e-3)
    assert torch.equal(trainer.flat.masters, before)
    assert not trainer.flat.gradients.isnan().any()


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    settings = Settings(folder=Path(), steps=100, decay_steps=20, warmup_steps=10, rate=1.0)
    rates = [learning_rate(settings, step) for step in (0, 9, 50, 90, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])


def test_a_run_starts_from_given_weights(settings: Settings, tmp_path: Path) -> None:
    first = Trainer(settings)
    torch.save(first.flat.state(), tmp_path / "state.pt")
    second = Trainer(replace(settings, seed=9, start=tmp_path / "state.pt"))
    assert second.missing == []
    assert torch.equal(first.flat.masters, second.flat.masters)


def test_flags_become_settings(tmp_path: Path) -> None:
    settings = parse(["--folder", str(tmp_path), "--steps", "12", "--device", "cuda"])
    assert settings == Settings(folder=tmp_path, steps=12, device="cuda", processes=1)


def test_a_folder_is_trained_in_by_one_run_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path / "run"):
        with pytest.raises(SystemExit, match="another run is training in"), alone(tmp_path / "run"):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "run"):
        pass
