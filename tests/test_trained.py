"""Loaded models: images in [0, 1] whatever the variant's range, bytes and arrays, no gradients, one sentence."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.runs import make_config, run, small
from zoo import trained
from zoo.base import SYMMETRIC, VARIANTS, BaseVAE, Batch, ImageSpec, random_batch
from zoo.engine.checkpoint import load as load_raw
from zoo.engine.validation import mean_terms
from zoo.errors import DoesNotApply, UserError
from zoo.models import preferred_range
from zoo.trained import Trained

NAMES = [entry.name for entry in VARIANTS if entry.target.__module__.startswith("zoo.")]
BYTES = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images lie in [-1, 1]."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    model = {"name": "mlp", "net": "mlp", "hidden_dims": [16], "latent_dim": 3, "recon": "mse"}
    run(make_config(out, model=model, data={"name": "digits", "limit": 300, "range": [-1, 1]}, steps=3))
    return out


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_the_variant_says_in_its_own_range_is_said_in_unit_range(finished: Path) -> None:
    model, raw = zoo.load(finished), load_raw(finished)
    assert model.image.range == (0, 1) and raw.image.range == SYMMETRIC == model.model.image.range
    drawn, own = model.sample(5, generator=seeded()), raw.sample(5, generator=seeded())
    assert torch.equal(drawn, ((own + 1) / 2).clamp(0, 1)) and own.min() < 0 <= drawn.min() and drawn.max() <= 1
    x = BYTES.float() / 127.5 - 1
    assert torch.allclose(model.encode(BYTES)[0], raw.encode(x)[0], atol=1e-6)
    assert torch.allclose(model.reconstruct(BYTES), (raw.reconstruct(x) + 1) / 2, atol=1e-6)
    z = torch.randn(4, 3)
    assert torch.allclose(model.decode(z), (raw.decode(z) + 1) / 2, atol=1e-6)
    assert torch.allclose(model.decode(z.numpy()), model.decode(z))
    assert torch.allclose(model(BYTES, sample_posterior=False).recon, model.reconstruct(BYTES))
    torch.manual_seed(0)
    bound = model.log_likelihood(BYTES, 3)
    torch.manual_seed(0)
    assert torch.allclose(bound, raw.log_likelihood(x, 3), rtol=1e-5)


def test_bytes_floats_and_arrays_are_one(finished: Path) -> None:
    model = zoo.load(finished)
    known = model.encode(BYTES)[0]
    unit = BYTES.float() / 255
    for same in (
        unit,
        unit.double(),
        unit.numpy(),
        BYTES.numpy(),
        BYTES.permute(0, 2, 3, 1).numpy(),
        BYTES[:, 0],
        unit[:, 0].numpy()[::-1][::-1],  # not contiguous
    ):
        assert torch.allclose(model.encode(same)[0], known, atol=1e-5)


def test_colours_may_come_last() -> None:
    model = Trained(zoo.create("mlp", ImageSpec(3, 8, 6), **small("mlp")).eval())
    x = torch.rand(2, 3, 8, 6)
    assert torch.equal(model.encode(x)[0], model.encode(x.permute(0, 2, 3, 1).numpy())[0])


def test_no_gradients_but_where_they_are_asked_for(finished: Path) -> None:
    model = zoo.load(finished)
    out = model(BYTES)
    for tensor in (model.sample(2), *model.encode(BYTES), model.reconstruct(BYTES), out.recon, out.z):
        assert not tensor.requires_grad
    assert model.model.sample(2).requires_grad, "the variant itself has them"
    model.loss(Batch(BYTES))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_it_is_a_variant_like_any_other(finished: Path) -> None:
    """Metrics see a model whose images lie in [0, 1], and the same numbers."""
    model, raw = zoo.load(finished), load_raw(finished)
    assert isinstance(model, zoo.BaseVAE) and not model.training and model.latent_dim == 3
    assert model.state_dict().keys() == raw.state_dict().keys() and model.progress is model.model.progress
    assert model.stochastic == raw.stochastic and model.players == raw.players
    twin = copy.deepcopy(model)
    twin.load_state_dict({name: 0 * weight for name, weight in raw.state_dict().items()})
    assert not torch.equal(twin.reconstruct(BYTES), model.reconstruct(BYTES))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        model.nothing  # noqa: B018
    from zoo.data import build_data

    data = build_data(make_config(finished).data)

    class Alone:
        process_index, num_processes = 0, 1

    found: list[dict[str, float]] = [mean_terms(each, data.val, Alone(), 50) for each in (model, raw)]  # type: ignore[arg-type]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_can_be_used_so(name: str) -> None:
    own = preferred_range(name, small(name))
    image = ImageSpec(1, 16, 16, own, classes=3, train_size=50)
    model = Trained(zoo.create(name, image, **small(name)).eval())
    facts = BaseVAE.__annotations__.keys() - {"progress"}
    assert {"codebooks", "players"} <= facts
    assert {fact: getattr(model, fact) for fact in facts} == {fact: getattr(model.model, fact) for fact in facts}
    x = torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8)
    y = torch.arange(5) % 3 if model.needs_labels else None
    images = [model.sample(4, 1 if model.needs_labels else None), model.reconstruct(x, y), model.generate(x, y)]
    mu, logvar = model.encode(x, y)
    assert len(mu) == 5 and (logvar is None or logvar.shape == mu.shape)
    images += [model.decode(mu, y), model(x, y).recon]
    for each in images:
        assert each.shape[1:] == (1, 16, 16) and each.min() >= 0 and each.max() <= 1 and not each.requires_grad
    if model.codebook_size:
        assert model.indices(x).shape[0] == 5
    try:
        assert model.log_likelihood(x, 2, y).shape == (5,)
    except DoesNotApply as error:
        assert "has no density" in str(error)


def test_many_images_go_through_some_at_a_time(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.load(finished)
    whole = [*model.encode(BYTES), model.reconstruct(BYTES), model.decode(torch.ones(6, 3))]
    first = model.sample(2, generator=seeded())
    seen: list[int] = []
    monkeypatch.setattr(trained, "PIECE", 2 * 64)
    model.model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    parts = [*model.encode(BYTES), model.reconstruct(BYTES), model.decode(torch.ones(6, 3))]
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert seen == [2, 2, 2]
    drawn = model.sample(5, generator=seeded())
    assert len(drawn) == 5 and torch.allclose(drawn[:2], first, atol=1e-6), "more of the same seed go on"


WRONG: dict[str, tuple[Any, str]] = {
    "one image": (BYTES[0, 0], "takes [N, 1, 8, 8]; of one image, write x[None]"),
    "size": (torch.rand(2, 1, 9, 8), "images are a tensor, float32 [2, 1, 9, 8], and this model takes [N, 1, 8, 8]"),
    "colours": (np.zeros((2, 8, 8, 3), np.uint8), "images are a NumPy array, uint8 [2, 8, 8, 3]"),
    "bytes as floats": (BYTES.float(), "write x / 255, or give them as uint8"),
    "symmetric": (BYTES.float() / 127.5 - 1, "from [-1, 1], write (x + 1) / 2"),
    "beyond": (torch.full((1, 1, 8, 8), 300.0), "images lie in [300, 300]"),
    "no number": (torch.full((1, 1, 8, 8), float("nan")), "no number (NaN)"),
    "whole numbers": (BYTES.long(), "must be uint8, or floats in [0, 1]"),
    "none": (BYTES[:0], "there must be one at least"),
    "a list": ([1, 2], "images are a list, and must be a tensor or a NumPy array"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_images_are_one_sentence(finished: Path, case: str) -> None:
    x, words = WRONG[case]
    model = zoo.load(finished)
    for use in (model.encode, model.reconstruct, model):
        with pytest.raises(UserError) as error:
            use(x)
        assert words in str(error.value)


def test_wrong_latents_numbers_and_labels_are_one_sentence(finished: Path) -> None:
    model = zoo.load(finished)
    with pytest.raises(UserError, match=r"latents are a tensor, float32 \[2, 4\], and this model takes \[N, 3\]"):
        model.decode(torch.zeros(2, 4))
    with pytest.raises(UserError, match="n is 0"):
        model.sample(0)
    with pytest.raises(UserError, match="would take"):
        model.sample(10**12)
    told = Trained(zoo.create("conditional", ImageSpec(1, 8, 8, classes=3), **small("conditional")))
    for y in ([0, 1], [0, 1, 3, 0], torch.zeros(4), -1):
        with pytest.raises(UserError, match=r"and this model takes \[4\] whole numbers from 0 to 2"):
            told.sample(4, y)
    with pytest.raises(UserError, match="needs labels"):
        told.sample(4)
    attributes = Trained(zoo.create("conditional", ImageSpec(1, 8, 8, attributes=2), **small("conditional")))
    assert attributes.sample(2, np.array([[0, 1], [1, 1]])).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match=r"takes \[2, 2\] numbers, 0 or 1"):
        attributes.sample(2, [0, 1])


def test_labels_may_be_one_for_all() -> None:
    told = Trained(zoo.create("conditional", ImageSpec(1, 8, 8, classes=3), **small("conditional")).eval())

    def drawn(y: Any) -> Tensor:
        return told.sample(3, y, seeded())

    assert torch.equal(drawn(2), drawn(torch.tensor([2, 2, 2]))) and torch.equal(drawn(2), drawn(np.int64(2)))
    assert not torch.equal(drawn(2), drawn(1))
    image = random_batch(ImageSpec(1, 8, 8)).x
    assert told.encode(image, 1)[0].shape[0] == 4
