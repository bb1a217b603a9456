"""The loop: what a run leaves, that it resumes bit for bit, that players keep to their own parameters."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

import zoo
from tests.runs import digest, make_config, rows, run, settings, small
from zoo.base import Batch
from zoo.config import Config, check, load_config
from zoo.data import dequantise, evaluation_batches, random_crop
from zoo.engine.log import Totals
from zoo.engine.setup import set_up
from zoo.engine.step import noise_seed
from zoo.engine.train import Trainer
from zoo.engine.validation import mean_terms
from zoo.errors import Diverged, UserError
from zoo.runs import train

PICTURES = ("training_losses", "reconstructions", "generated_samples", "interpolations", "latent_space")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert run(make_config(out)) == 0
    return out


def test_a_run_leaves_everything_promised(finished: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "model.safetensors", "results.json"):
        assert (finished / name).is_file(), name
    for name in PICTURES:
        assert (finished / f"{name}.png").is_file(), name
    results = json.loads((finished / "results.json").read_text())
    assert {"elbo", "recon", "kl", "psnr"} <= results["metrics"].keys()
    for key in ("images_per_second", "parameters", "seed", "commit", "versions", "command", "config_hash", "steps"):
        assert results[key] is not None, key
    assert results["metrics"]["elbo"]["n"] == 30  # a tenth of 300 images
    assert results["metrics"]["elbo"]["value"] == pytest.approx(
        -results["metrics"]["recon"]["value"] - results["metrics"]["kl"]["value"], rel=1e-5
    )


def test_the_resolved_config_makes_the_same_run_again(finished: Path, tmp_path: Path) -> None:
    again = load_config(finished / "config.yaml", [f"out={tmp_path / 'again'}"])
    assert run(again) == 0
    assert digest(tmp_path / "again") == digest(finished)


def test_metrics_rows(finished: Path) -> None:
    table = rows(finished)
    assert all({"step", "epoch", "images_per_second"} <= row.keys() for row in table)
    ends = [row for row in table if "train/epoch_loss" in row]
    # 243 training images in batches of 32: epochs end with steps 8, 16, 23.
    assert [(row["step"], row["epoch"]) for row in ends] == [(8, 1), (16, 2), (23, 3)]
    assert all("val/loss" in row for row in ends)
    assert ends[-1]["train/epoch_loss"] < ends[0]["train/epoch_loss"]


def test_epoch_loss_is_the_mean_over_the_epoch(tmp_path: Path) -> None:
    assert run(make_config(tmp_path / "r", steps=16, log_every=1)) == 0
    table = rows(tmp_path / "r")
    losses = [row["train/loss"] for row in table]
    ends = [row["train/epoch_loss"] for row in table if "train/epoch_loss" in row]
    assert ends == pytest.approx([sum(losses[:8]) / 8, sum(losses[8:]) / 8], rel=1e-5)


def test_load_gives_the_model_back(finished: Path) -> None:
    model = zoo.load(finished)
    weights = load_file(finished / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert model.sample(3).shape == (3, 1, 8, 8)


RESUMED = {
    "plain": ("mlp", {}),
    "everything": (
        "beta",
        {
            "model": {"name": "beta", "net": "mlp", "hidden_dims": [16], "warmup": 0.5},
            "ema": 0.9,
            "clip": 1.0,
            "accumulate": 2,
            "lr_schedule": "cosine",
            "lr_warmup": 5,
            "data": {"name": "digits", "limit": 300, "flip": True},
            "optimizer": {"name": "adamw", "weight_decay": 0.01},
        },
    ),
    "binarised anew": ("mlp", {"data": {"name": "digits", "limit": 300, "flip": True, "binarize": "dynamic"}}),
    "batch norm": ("vanilla", {"model": {"name": "vanilla", "hidden_dims": [4, 8]}}),
    "bf16": ("mlp", {"mixed_precision": "bf16"}),
    "two players": ("duel", {}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resume_is_bit_for_bit(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant, changes = RESUMED[case]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(make_config(whole, variant, **changes)) == 0

    take_step = Trainer.take_step

    def fails_at_17(self: Trainer, *batch: torch.Tensor) -> None:
        if self.step == 17:
            raise ConnectionError
        take_step(self, *batch)

    monkeypatch.setattr(Trainer, "take_step", fails_at_17)
    with pytest.raises(ConnectionError):
        run(make_config(broken, variant, **changes))
    monkeypatch.undo()
    assert not (broken / "model.safetensors").exists()
    assert run(make_config(broken, variant, **changes), resume=True) == 0

    assert digest(broken) == digest(whole)
    same = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(whole)]
    again = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(broken)]
    assert [row["step"] for row in again] == [row["step"] for row in same]
    assert again[-1] == pytest.approx(same[-1], rel=1e-6)


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    config = make_config(tmp_path / "r", steps=3)
    (tmp_path / "r").mkdir()
    assert run(config, resume=True) == 0
    assert (tmp_path / "r" / "results.json").is_file()


def test_a_resumed_run_knows_the_best_it_has_seen(tmp_path: Path) -> None:
    config = make_config(tmp_path / "r")
    t = trainer(config)
    t.step, t.best_val, t.best_step = 10, -123.5, 7
    t.save(best=True)
    t.checkpoints.finish()
    resumed = trainer(config)
    assert resumed.resume() and (resumed.step, resumed.best_val, resumed.best_step) == (10, -123.5, 7)


def script_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let the validation loss at the end of each epoch be as told."""
    validate = Trainer._validate
    monkeypatch.setattr(
        Trainer,
        "_validate",
        lambda self: validate(self) | {"val/loss": losses[self._epochs_done(self.step) - 1]},
    )


BEST: dict[str, dict[str, object]] = {
    "plain": {},
    "average": {"ema": 0.9},
    "batch norm": {"model": {"name": "vanilla", "hidden_dims": [4, 8], "latent_dim": 3}},
}


@pytest.mark.parametrize("case", BEST)
def test_the_best_weights_are_those_left_where_they_count(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, [5.0, 3.0, 4.0, 4.5])
    assert run(make_config(tmp_path / "last", steps=25, **BEST[case])) == 0
    assert run(make_config(tmp_path / "best", steps=25, evaluate_on="best", **BEST[case])) == 0
    assert run(make_config(tmp_path / "short", steps=16, **BEST[case] | {"lr_schedule": "constant"})) == 0
    last, best, short = (load_file(tmp_path / name / "model.safetensors") for name in ("last", "best", "short"))
    assert all(torch.equal(best[name], short[name]) for name in best)  # the second epoch ends with step 16
    assert any(not torch.equal(best[name], last[name]) for name in best)
    results = json.loads((tmp_path / "best" / "results.json").read_text())
    assert results["weights"].startswith("best by validation loss, of step 16") and results["steps"] == 25
    expected = json.loads((tmp_path / "short" / "results.json").read_text())["metrics"]["elbo"]["value"]
    assert results["metrics"]["elbo"]["value"] == expected


def test_validations_are_where_eval_every_says_and_epochs_where_they_end(tmp_path: Path) -> None:
    assert run(make_config(tmp_path / "run", steps=25, eval_every=10, log_every=50)) == 0
    assert [row["step"] for row in rows(tmp_path / "run") if "val/loss" in row] == [10, 20, 25]
    assert [row["step"] for row in rows(tmp_path / "run") if "train/epoch_loss" in row] == [8, 16, 23]  # 240 images


@pytest.mark.parametrize(("changes", "end"), [({}, 38), ({"warmup_epochs": 4.0}, 54)])
def test_patience_is_over_where_it_would_have_been(
    changes: dict[str, object], end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs after the second, or after the fourth, that warm-up ends with; also if it was killed before."""
    script_losses(monkeypatch, [5.0, 3.0, *[4.0] * 20])
    keys = {"steps": 100, "patience": 3, "evaluate_on": "best", "checkpoint_every": 7} | changes
    assert run(make_config(tmp_path / "whole", **keys)) == 0
    take_step = Trainer.take_step

    def fails_at_25(self: Trainer, *batch: torch.Tensor) -> None:
        if self.step == 25:
            raise ConnectionError
        take_step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", fails_at_25)
        with pytest.raises(ConnectionError):
            run(make_config(tmp_path / "broken", **keys))
    assert run(make_config(tmp_path / "broken", **keys), resume=True) == 0
    before = digest(tmp_path / "whole")
    assert run(make_config(tmp_path / "whole", **keys), resume=True) == 0  # once over, it stays over
    for name in ("whole", "broken"):
        assert json.loads((tmp_path / name / "results.json").read_text())["steps"] == end
        assert digest(tmp_path / name) == before
        assert rows(tmp_path / name)[-1]["step"] == end
    with pytest.raises(UserError, match="another eval_every"):
        run(make_config(tmp_path / "whole", **keys, eval_every=5), resume=True)


def test_best_weights_that_are_gone_are_one_sentence(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", evaluate_on="best"))
    with pytest.raises(UserError, match="the best weights by validation loss were in .*step_00000000, and are gone"):
        t.take_best()


def test_a_resumed_run_may_be_longer_but_not_another(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert run(make_config(out, steps=5)) == 0
    with pytest.raises(UserError, match="already holds a run: add --resume"):
        run(make_config(out, steps=5))
    with pytest.raises(UserError, match="another batch_size: it was 32 and is now 8"):
        run(make_config(out, steps=5, batch_size=8), resume=True)
    assert run(make_config(out, steps=8), resume=True) == 0
    assert json.loads((out / "results.json").read_text())["steps"] == 8


def test_noise_is_never_drawn_twice() -> None:
    keys = list(itertools.product(range(2), range(20), range(2), range(3), range(3)))
    assert len({noise_seed(*key) for key in keys}) == len(keys)


def test_each_pass_of_a_run_has_noise_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the step, the player, the micro-batch and the rank."""
    seeds: list[int] = []
    monkeypatch.setattr("zoo.engine.train.seed_noise", lambda seed, device: seeds.append(seed))
    t = trainer(make_config(tmp_path / "r", "duel", accumulate=2))
    t.model.plays = lambda name, step: True  # type: ignore[method-assign]
    for t.rank, t.step in itertools.product((0, 1), (0, 1, 2)):
        t.take_step(*one_batch(t))
    assert len(set(seeds)) == len(seeds) == 2 * 3 * 2 * 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])  # Adam takes the same step whatever the loss is multiplied by
def test_accumulated_micro_batches_equal_the_whole_batch(optimizer: str, tmp_path: Path) -> None:
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    run(make_config(whole, "still", steps=10, optimizer={"name": optimizer}))
    run(make_config(parts, "still", steps=10, optimizer={"name": optimizer}, accumulate=4))
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-5), name


def trainer(config: Config) -> Trainer:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Trainer(set_up(config))


def one_batch(t: Trainer) -> tuple[torch.Tensor, torch.Tensor | None]:
    return t.run.data.train.batch(torch.arange(32))


def test_a_codebook_learns_once_a_step_from_all_micro_batches(tmp_path: Path) -> None:
    model = {"name": "vq", **small("vq")}
    codes = []
    for accumulate in (1, 4):
        t = trainer(make_config(tmp_path / "r", model=model, accumulate=accumulate))
        t.take_step(*one_batch(t))
        quantizer = t.model.get_submodule("quantizer")
        codes.append((quantizer.get_buffer("counts"), quantizer.get_buffer("sums")))
    for one, four in zip(*codes, strict=True):
        torch.testing.assert_close(one, four)


def moved_by(t: Trainer) -> dict[str, list[torch.nn.Parameter]]:
    return {player.name: player.parameters for player in t.players}


@pytest.mark.parametrize("player", ["vae", "critic"])
def test_a_player_moves_its_own_parameters_alone(player: str, tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", "duel", optimizer={"name": "sgd"}))
    t.model.plays = lambda name, step: name == player  # type: ignore[method-assign]
    before = {name: [p.detach().clone() for p in group] for name, group in moved_by(t).items()}
    t.take_step(*one_batch(t))
    for name, group in moved_by(t).items():
        moved = [not torch.equal(a, b) for a, b in zip(before[name], group, strict=True)]
        assert all(moved) if name == player else not any(moved), name


def test_a_players_turn_leaves_no_gradient_behind(tmp_path: Path) -> None:
    """Else the next player's step would follow it, too."""
    t = trainer(make_config(tmp_path / "r", "duel"))
    t.model.plays = lambda name, step: name == "vae"  # type: ignore[method-assign]
    t.take_step(*one_batch(t))
    assert all(parameter.grad is None for parameter in t.model.parameters())


def test_players_follow_their_schedule(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", "duel"))
    for t.step in range(6):
        t.take_step(*one_batch(t))
    t.log.passed.means(t.accelerator)
    assert t.log.passed.counts["loss"] == 6
    assert t.log.passed.counts["critic/loss"] == 3


def test_logged_terms_are_means_over_steps() -> None:
    """Not every step has every term."""
    totals, whole = Totals(), Totals()
    for step in range(600):
        values = torch.tensor([step, 2.0 * step])
        totals.add(*((("a", "b"), values) if step % 2 else (("a",), values[:1])))
    whole.absorb(totals)
    for each in (totals, whole):
        assert each.means(Accelerator(cpu=True)) == {"a": pytest.approx(299.5), "b": pytest.approx(600)}


def test_a_logged_term_may_be_a_buffer_that_the_next_step_changes(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", steps=5))
    loss = t.model.loss
    t.model.loss = lambda batch: loss(batch) | {"progress": t.model.progress}  # type: ignore[method-assign]
    for t.step in range(5):
        t.take_step(*one_batch(t))
    assert t.log.passed.means(t.accelerator)["progress"] == pytest.approx(0.5)


def test_progress_runs_from_zero_to_one(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", steps=5))
    seen = []
    for t.step in range(5):
        t.take_step(*one_batch(t))
        seen.append(t.model.progress.item())
    assert seen == [0, 0.25, 0.5, 0.75, 1]


def test_average_follows_the_weights(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", ema=0.75))
    expected = None
    for t.step in range(3):
        t.take_step(*one_batch(t))
        now = t.model.to_mu.weight.detach().clone()
        decay = min(0.75, (1 + t.step) / (10 + t.step))
        expected = now if expected is None else decay * expected + (1 - decay) * now
    assert t.evaluated is not t.model
    assert torch.allclose(t.evaluated.to_mu.weight, expected, atol=1e-6)


def test_the_average_leaves_the_start_behind(tmp_path: Path) -> None:
    """With the decay from the first step on, it would be near the untrained weights for a thousand steps."""
    t = trainer(make_config(tmp_path / "r", ema=0.999, steps=400))
    start = t.model.to_mu.weight.detach().clone()
    losses: dict[int, list[float]] = {}
    for t.step in range(400):
        t.take_step(*one_batch(t))
        if t.step + 1 in (100, 400):
            scored = [mean_terms(model, t.run.data.val, t.accelerator, 100) for model in (t.model, t.evaluated)]
            losses[t.step + 1] = [terms["loss"] for terms in scored]
            t.model.train()
    assert not torch.equal(t.evaluated.to_mu.weight, start)
    for raw, averaged in losses.values():
        assert averaged < 1.1 * raw


def test_the_average_is_what_is_validated_and_left(tmp_path: Path) -> None:
    config = make_config(tmp_path / "r", ema=0.9, steps=20, lr=1e-2)
    assert run(config) == 0
    left = zoo.load(tmp_path / "r")
    raw = load_file(tmp_path / "r" / "checkpoints" / "latest" / "model.safetensors")
    assert not torch.equal(left.state_dict()["to_mu.weight"], raw["to_mu.weight"])
    t = trainer(config)
    terms = mean_terms(left, t.run.data.val, t.accelerator, config.eval_batch_size)
    last = rows(tmp_path / "r")[-1]
    assert last["val/loss"] == pytest.approx(terms["loss"], rel=1e-5)
    left.load_state_dict(raw)
    assert mean_terms(left, t.run.data.val, t.accelerator, config.eval_batch_size)["loss"] != pytest.approx(
        last["val/loss"], rel=1e-3
    )


def test_validation_is_in_evaluation_mode(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", "vanilla", model={"name": "vanilla", "hidden_dims": [4, 8]}))
    modes = []
    loss = t.model.loss
    t.model.loss = lambda batch: (modes.append(t.model.training), loss(batch))[1]  # type: ignore[method-assign]
    t.model.train()
    mean_terms(t.model, t.run.data.val, t.accelerator, 10)
    assert modes == [False] * 3


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", clip=1e-3, lr=1.0, optimizer={"name": "sgd"}))
    before = torch.cat([p.detach().flatten().clone() for p in t.model.parameters()])
    t.take_step(*one_batch(t))
    after = torch.cat([p.detach().flatten() for p in t.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=0.02)


def test_flip_mirrors_training_images_only(tmp_path: Path) -> None:
    config = make_config(tmp_path / "r", data={"name": "digits", "limit": 300, "flip": True})
    t = trainer(config)
    seen: list[Batch] = []
    loss = t.model.loss
    t.model.loss = lambda batch: (seen.append(batch), loss(batch))[1]  # type: ignore[method-assign]
    images, labels = one_batch(t)
    t.take_step(images, labels)
    x = images.float() / 255
    as_is = (seen[0].x == x).flatten(1).all(1)
    mirrored = (seen[0].x == x.flip(3)).flatten(1).all(1)
    assert (as_is | mirrored).all() and as_is.any() and (mirrored & ~as_is).any()
    _, batch = next(evaluation_batches(t.run.data.val, t.model, 27))
    assert torch.equal(batch.x, t.run.data.val.batch(torch.arange(27))[0].float() / 255)


def test_crops_and_noise_are_for_training_images_only(tmp_path: Path) -> None:
    data = {"name": "digits", "limit": 300, "random_crop": 1, "dequantise": True}
    t = trainer(make_config(tmp_path / "r", data=data, accumulate=2))
    seen: list[Tensor] = []
    loss = t.model.loss
    t.model.loss = lambda batch: (seen.append(batch.x), loss(batch))[1]  # type: ignore[method-assign]
    images, labels = one_batch(t)
    t.take_step(images, labels)
    for micro, part in enumerate(images.chunk(2)):
        torch.manual_seed(noise_seed(t.config.seed, t.step, 0, micro, 0))
        assert torch.equal(seen[micro], dequantise(random_crop(part, 1), (0.0, 1.0)))
    _, batch = next(evaluation_batches(t.run.data.val, t.model, 27))
    assert torch.equal(batch.x, t.run.data.val.batch(torch.arange(27))[0].float() / 255)


def test_evaluation_weighs_every_image_once_and_ends_schedules(tmp_path: Path) -> None:
    model = {"name": "beta", "net": "mlp", "hidden_dims": [16], "beta": 4.0, "warmup": 0.9}
    t = trainer(make_config(tmp_path / "r", "beta", model=model))
    t.model.progress.fill_(0.1)
    accelerator = Accelerator(cpu=True)
    uneven = mean_terms(t.model, t.run.data.val, accelerator, batch_size=16)  # 16 and 11 images
    assert uneven["beta"] == pytest.approx(4.0)
    assert uneven["loss"] == pytest.approx(uneven["recon"] + 4 * uneven["kl"], rel=1e-5)
    assert t.model.progress.item() == pytest.approx(0.1)
    whole = mean_terms(t.model, t.run.data.val, accelerator, batch_size=27)
    assert uneven["kl"] == pytest.approx(whole["kl"], rel=1e-5)


def test_pictures_are_drawn_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, weights = [], []
    for seconds in (math.inf, 0.0):
        monkeypatch.setattr("zoo.engine.log.SECONDS_BETWEEN_PICTURES", seconds)
        out = tmp_path / f"every_{seconds}"
        t = trainer(make_config(out, steps=20))
        out.mkdir()
        t.fit()
        drawn.append(sorted(picture.stem for picture in out.glob("*.png")))
        weights.append(t.model.state_dict())
    assert drawn == [[], ["generated_samples", "reconstructions", "training_losses"]]
    torch.testing.assert_close(*weights, rtol=0, atol=0)  # the noise was left alone


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(Diverged, match=r"train/loss became (inf|nan) by step 2\d; the last good .*step_000000(10|20)"):
        run(make_config(out, "explosive", checkpoint_every=10))
    good = load_file(out / "checkpoints" / "latest" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in good.values())


def test_no_checkpoint_is_made_of_weights_that_the_loss_has_not_seen_yet(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", steps=20, checkpoint_every=10))
    t.run.out.mkdir()
    take_step = t.take_step

    def spoils_20(images: torch.Tensor, labels: torch.Tensor | None) -> None:
        take_step(images, labels)
        if t.step == 19:
            t.model.to_mu.weight.data[0, 0] = math.nan

    t.take_step = spoils_20  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="a parameter stopped being finite by step 20; the last good .*step_00000016"):
        t.fit()


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train(make_config(tmp_path / "r"), dry_run=True) == 0
    assert not (tmp_path / "r").exists()
    assert "two steps taken" in capsys.readouterr().out


def test_batch_must_divide(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size 32 can't be shared equally by 1 processes x 3 accumulated"):
        run(make_config(tmp_path / "r", accumulate=3))


def test_folder_is_named_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = check(Config, settings(tmp_path, seed=7) | {"out": None}, "test")
    assert trainer(config).run.out == Path("runs/mlp_digits_z3_s8_7")


def test_range_follows_the_model(tmp_path: Path) -> None:
    t = trainer(make_config(tmp_path / "r", "vanilla", model={"name": "vanilla", "hidden_dims": [4]}))
    assert t.model.image.range == (-1.0, 1.0)
    assert t.model.likelihood.activation == "tanh"


def test_config_file_is_plain_yaml(finished: Path) -> None:
    values = yaml.safe_load((finished / "config.yaml").read_text())
    assert values["data"]["range"] == [0.0, 1.0] and values["data"]["size"] == 8
    assert math.isclose(values["lr"], 1e-3)
