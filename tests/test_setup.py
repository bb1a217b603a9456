"""What a run chooses by itself, and that every choice can be switched off."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState

from tests.runs import ROOT, digest, make_config, run, small
from zoo.base import VARIANTS, ImageSpec
from zoo.engine import setup
from zoo.engine.setup import check_shardable, choose_precision, set_up, tune
from zoo.engine.step import TrainStep
from zoo.engine.train import Trainer
from zoo.errors import UserError
from zoo.models import create
from zoo.variants.beta import BetaVAE

SMALL = {"net": "mlp", "hidden_dims": [4], "latent_dim": 3}
CONV = {"name": "vanilla", "hidden_dims": [4, 8], "latent_dim": 3}


@pytest.fixture(autouse=True)
def new_process() -> None:
    """Accelerate keeps its first settings for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bf16_is_chosen_where_the_processor_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, mixed_precision="auto")
    for has, safe, chosen in ((True, True, "bf16"), (True, False, "no"), (False, True, "no")):
        monkeypatch.setattr(setup, "has_bf16", lambda _, has=has: has)
        assert choose_precision(config, "cpu", bf16_safe=safe) == chosen
    for asked in ("no", "bf16"):
        assert choose_precision(make_config(tmp_path, mixed_precision=asked), "cpu") == asked
    with pytest.raises(UserError, match="'fp16' needs a GPU"):
        choose_precision(make_config(tmp_path, mixed_precision="fp16"), "cpu")


@pytest.mark.parametrize("asked", [True, False])
def test_convolutions_are_channels_last_unless_switched_off(tmp_path: Path, asked: bool) -> None:
    made = set_up(make_config(tmp_path / "r", model=CONV, channels_last=asked))
    trainer = Trainer(made)
    weight = next(p for p in trainer.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) == asked
    assert ("channels-last" in made.choices()) == asked


@pytest.mark.parametrize(("net", "told"), [("conv", True), ("grid", False)])
def test_what_a_model_remarks_is_said_before_the_run(
    net: str, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grid of codes that is too coarse for photographs."""
    model = {"name": "fsq", "net": net, "base_channels": 2}
    data = {"name": "shapes", "size": 32, "channels": 3, "count": 100}
    set_up(make_config(tmp_path / "r", model=model, data=data, batch_size=8))
    said = "warning: model 'fsq' has 2 x 2 codes for a photograph of 32 x 32 pixels, whose parts will not fit together"
    assert (said in capsys.readouterr().err) == told


def test_a_net_without_convolutions_stays_as_it_is(tmp_path: Path) -> None:
    assert "channels-last" not in set_up(make_config(tmp_path / "r")).choices()


def test_the_layout_changes_no_result(tmp_path: Path) -> None:
    means = []
    for asked in (True, False):
        trainer = Trainer(set_up(make_config(tmp_path / "r", model=CONV, channels_last=asked)))
        for trainer.step in range(5):
            trainer.take_step(torch.arange(32 * 64).view(32, 1, 8, 8).remainder(251).byte(), None)
        means.append(trainer.log.window.means(trainer.accelerator))
    assert means[0] == pytest.approx(means[1], rel=1e-4)


@pytest.mark.parametrize(("variant", "told"), [("dip_i", True), ("mlp", False)])
def test_a_batch_that_is_split_for_its_terms_is_told(tmp_path: Path, variant: str, told: bool) -> None:
    model = {"name": variant, **small(variant)}
    whole, split = (set_up(make_config(tmp_path / "r", model=model, accumulate=n)).choices() for n in (1, 4))
    assert "terms of a batch" not in whole
    assert ("terms of a batch over 8 images" in split) == told


def test_the_choices_are_told_in_one_line(tmp_path: Path) -> None:
    made = set_up(make_config(tmp_path / "r", model=CONV))
    assert made.choices() == "cpu, 1 process, 1 thread, precision no, channels-last, fused adam"
    assert f"how     {made.choices()}" in made.summary()


def test_a_sharded_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(UserError, match="the launch asks for FSDP, which the loop does not support"):
        set_up(make_config(tmp_path / "r"))


@pytest.mark.parametrize(
    ("changes", "ranks", "complaint"),
    [
        ({}, 1, "shares a model out over several processes, but there is one"),
        ({"model": {"name": "aae", **small("aae")}}, 2, r"'aae' has several players \(vae, .*takes one model with one"),
        ({"model": {"name": "mlp", **small("mlp", recon="gaussian")}}, 2, "'likelihood.logvar' of model 'mlp' is one"),
        ({"ema": 0.9}, 2, "does not go together with ema"),
        ({"compile": True}, 2, "does not go together with compile"),
        ({"mixed_precision": "fp16"}, 2, "does not go together with mixed_precision=fp16"),
    ],
)
def test_what_can_t_be_shared_out_says_why(tmp_path: Path, changes: dict[str, Any], ranks: int, complaint: str) -> None:
    config = make_config(tmp_path, shard=True, **changes)
    model = create(config.model.name, ImageSpec(1, 8, 8), **config.model.options)
    with pytest.raises(UserError, match=complaint):
        check_shardable(config, model, ranks)


def test_a_crop_leaves_something_of_the_image(tmp_path: Path) -> None:
    data = {"name": "digits", "limit": 300}
    assert set_up(make_config(tmp_path / "r", data=data | {"random_crop": 7})).data.train.shape == (1, 8, 8)
    with pytest.raises(UserError, match="data.random_crop is 8, but must be less than the 8 pixels of an image's side"):
        set_up(make_config(tmp_path / "r", data=data | {"random_crop": 8}))


def test_warmup_may_be_told_in_epochs(tmp_path: Path) -> None:
    """Of the run as it is: 5 of its 20 epochs are a quarter, and the config keeps the epochs."""
    config = make_config(
        tmp_path / "r", "beta", epochs=20, steps=None, warmup_epochs=5, model={"name": "beta", **SMALL}
    )
    run = set_up(config)
    model = run.model
    assert isinstance(model, BetaVAE) and model.warmup == pytest.approx(0.25, rel=0.01)
    assert "warmup" not in config.model.options
    model.progress.fill_(0.125)
    assert model.kl_weight() == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": {"name": "ae", **SMALL}}, "model 'ae' has no warmup of its KL"),
        ({"model": {"name": "beta", "warmup": 0.5, **SMALL}}, "model.warmup is 0.5: leave one of them out"),
        ({"warmup_epochs": 3.96}, "warmup_epochs is 3.96, and must be less than the run's 3.951 epochs"),
    ],
)
def test_warmup_that_can_not_be_is_one_sentence(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    values = {"warmup_epochs": 2, "model": {"name": "beta", **SMALL}} | changes
    with pytest.raises(UserError, match=complaint):
        set_up(make_config(tmp_path / "r", "beta", **values))


def test_denormal_numbers_count_as_zero(tmp_path: Path) -> None:
    torch.set_flush_denormal(False)
    small = torch.tensor([1e-39])
    assert (small * 1).item() != 0
    set_up(make_config(tmp_path / "r"))
    assert (small * 1).item() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    script = """
import resource
import torch
from zoo.engine.setup import spare_processor
spare_processor()
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(asked.stdout) < 2 * 2**26 / 4096  # the pages of two tensors; all twenty would be new to the kernel


def test_another_malloc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> Any:
        raise OSError("libc.so.6: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    setup.spare_processor()


# ---- tune


@pytest.mark.parametrize("fastest", [("no", True), ("no", False), ("bf16", True), ("bf16", False)])
def test_tuning_keeps_the_fastest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fastest: tuple[str, bool]) -> None:
    tried = []

    def timed(model: Any, batch: Any, *choice: Any) -> float:
        tried.append(choice)
        return 1.0 if choice == fastest else 2.0

    monkeypatch.setattr(setup, "_time_steps", timed)
    monkeypatch.setattr(setup, "has_bf16", lambda _: True)
    made = set_up(make_config(tmp_path / "r", model=CONV, mixed_precision="auto", tune=True))
    assert (made.precision, made.channels_last) == fastest
    assert len(tried) == len(set(tried)) == 4 and made.choices().endswith("tuned")


def test_tuning_leaves_alone_what_the_config_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(setup, "_time_steps", lambda model, batch, *choice: tried.append(choice) or 1.0)
    set_up(make_config(tmp_path / "r", model=CONV, mixed_precision="no", channels_last=False, tune=True))
    assert tried == [("no", False)]


def test_tuning_really_runs_and_changes_neither_model_nor_noise(tmp_path: Path) -> None:
    config = make_config(tmp_path, mixed_precision="auto")
    model = create("vanilla", ImageSpec(1, 8, 8), hidden_dims=[4, 8], latent_dim=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    noise = torch.get_rng_state()
    precision, layout = tune(config, model, "bf16", True, 4, torch.device("cpu"))
    assert precision in ("no", "bf16") and layout in (True, False)
    assert torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_tuned_run_ends_as_its_choice_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(make_config(tmp_path / "plain", model=CONV, steps=5))
    monkeypatch.setattr(setup, "_time_steps", lambda *_: 1.0)
    run(make_config(tmp_path / "tuned", model=CONV, steps=5, tune=True))
    assert digest(tmp_path / "plain") == digest(tmp_path / "tuned")


# ---- compile


def test_what_can_t_be_compiled_says_why(tmp_path: Path) -> None:
    model = {"name": "rae_gp", **small("rae_gp")}
    with pytest.raises(UserError, match="'rae_gp' can't be compiled: its gradient penalty is differentiated twice"):
        set_up(make_config(tmp_path / "r", model=model, compile=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in VARIANTS if not entry.target.not_compiled])
def test_a_compiled_step_is_the_step(name: str) -> None:
    import torch._inductor.config

    from zoo.base import random_batch

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = create(name, ImageSpec(1, 16, 16, classes=3, train_size=50), **small(name))
    x, y = random_batch(model.image, 8)
    pixels, start = (255 * x).round().byte(), {k: v.clone() for k, v in model.state_dict().items()}
    plain = TrainStep(model)
    with torch._inductor.config.patch(fallback_random=True):  # the same noise as without compilation
        compiled = torch.compile(plain)
        for player in model.players:
            losses, gradients = [], []
            for step in (plain, compiled):
                model.load_state_dict(start)
                model.zero_grad()
                torch.manual_seed(1)
                loss, _, _ = step(pixels, y, player)
                loss.backward()
                losses.append(loss.detach())
                grads = [p.grad for p in model.player_parameters(player) if p.grad is not None]
                gradients.append(torch.cat([grad.flatten() for grad in grads]))
            torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-3)


def test_levels_are_not_moved_where_their_probabilities_are_learned(tmp_path: Path) -> None:
    data = {"name": "digits", "dequantise": True}
    with pytest.raises(UserError, match="256 levels, and data.dequantise moves pixels between them: leave one of them"):
        set_up(make_config(tmp_path / "r", model={"name": "mlp", "recon": "logistic_mixture"}, data=data))
