"""The weights that a run starts from, and the bounds of its log variances, as papers have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional

from tests.runs import make_config, small
from zoo.base import BaseVAE, Batch, ImageSpec
from zoo.data import Images
from zoo.engine.initial import bias_from_data, initialise
from zoo.engine.setup import set_up
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.models import create
from zoo.testing import StubVAE


@pytest.fixture(autouse=True)
def new_process() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def mlp(**options: Any) -> GaussianVAE:
    model = create("mlp", ImageSpec(1, 20, 20), **{"hidden_dims": [500], "latent_dim": 40} | options)
    assert isinstance(model, GaussianVAE)
    return model


@pytest.mark.parametrize("kind", ["he", "xavier"])
def test_weights_have_the_variance_of_their_paper(kind: str) -> None:
    torch.manual_seed(0)
    model = mlp()
    initialise(model, kind)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 5
    for layer in linear:
        inputs, outputs = layer.in_features, layer.out_features
        expected = 2 / inputs if kind == "he" else 2 / (inputs + outputs)
        assert layer.weight.var().item() == pytest.approx(expected, rel=0.06)
        assert not layer.bias.any()
        assert (layer.weight.abs().max() > math.sqrt(3 * expected)) == (kind == "he")  # normal, or uniform


def test_a_flow_keeps_its_own_start() -> None:
    models = []
    for kind in ("", "he"):
        torch.manual_seed(0)
        models.append(create("iaf", ImageSpec(1, 8, 8), **small("iaf")))
        if kind:
            initialise(models[-1], kind)
    plain, he = (model.state_dict() for model in models)
    changed = {name.split(".")[0] for name in plain if not torch.equal(plain[name], he[name])}
    assert {"encoder", "decoder", "to_mu", "to_logvar", "from_latent"} <= changed
    assert not any("flow" in name or "step" in name for name in changed)


def test_a_run_starts_where_the_config_says(tmp_path: Path) -> None:
    runs = [set_up(make_config(tmp_path / kind, init=kind)) for kind in ("default", "he", "xavier")]
    weights = [run.model.state_dict()["encoder.1.weight"] for run in runs]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_the_last_bias_is_the_logit_of_the_mean(tmp_path: Path) -> None:
    data = {"name": "digits", "limit": 300, "binarize": "dynamic"}
    run = set_up(make_config(tmp_path / "r", init_bias_from_data=True, data=data))
    bias = run.model.state_dict()["decoder.1.bias"]
    stored = run.data.train.stored
    mean = stored.batch(torch.arange(len(stored)))[0].double().mean(0).flatten() / 255
    torch.testing.assert_close(bias.sigmoid(), mean.clamp(0.001, 0.999).float())


def test_a_convolutions_last_bias_is_of_each_channel() -> None:
    model = create("conv", ImageSpec(3, 16, 16), base_channels=2)
    bias_from_data(model, Images(torch.tensor([51, 102, 0]).byte().view(1, 3, 1, 1).expand(1500, 3, 16, 16)))
    layers = [layer for layer in model.decoder.modules() if isinstance(layer, nn.ConvTranspose2d)]  # type: ignore[union-attr]
    assert layers[-1].bias is not None
    torch.testing.assert_close(layers[-1].bias.sigmoid(), torch.tensor([0.2, 0.4, 0.001]))


class Other(StubVAE):
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": batch.x.mean()}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (create("celeba", ImageSpec(1, 16, 16, (-1, 1)), base_channels=2), "from a sigmoid"),
        (Other(ImageSpec(1, 4, 4)), "from a sigmoid"),
    ],
)
def test_a_bias_that_can_not_be_set_is_one_sentence(model: BaseVAE, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        bias_from_data(model, Images(torch.zeros(3, *model.image.shape, dtype=torch.uint8)))


def test_log_variances_are_clamped_where_a_paper_clamps_them() -> None:
    x = torch.rand(8, 1, 20, 20)
    for bounds in (None, (-6.0, 2.0)):
        model = mlp(logvar_range=bounds)
        with torch.no_grad():
            model.to_logvar.bias.copy_(torch.linspace(-50, 50, 40))
        _, logvar = model.encode(x)
        low, high = bounds or (-30.0, 20.0)
        assert (logvar.min(), logvar.max()) == (low, high)
        logvar.sum().backward()
        assert model.to_logvar.bias.grad is not None
        moved = model.to_logvar.bias.grad != 0
        assert moved.all() if bounds is None else moved.tolist() == ((logvar > low) & (logvar < high)).any(0).tolist()
    with pytest.raises(UserError, match=r"logvar_range is \[2.0, -6.0\], and must rise"):
        mlp(logvar_range=[2, -6])


@pytest.mark.parametrize("name", ["mlp", "iwae", "iaf"])
def test_a_posteriors_scale_may_be_a_softplus(name: str) -> None:
    image = ImageSpec(1, 20, 20)
    model = create(name, image, net="mlp", latent_dim=40, posterior_scale="softplus")
    given = torch.linspace(-200, 50, 40)
    with torch.no_grad():
        model.to_logvar.weight.zero_()
        model.to_logvar.bias.copy_(given)
    q = model.posterior(torch.rand(8, 1, 20, 20))
    logvar = getattr(q, "base", q).logvar
    wanted = (2 * functional.softplus(given.double()).log()).clamp(-30)
    torch.testing.assert_close(logvar, wanted.float().expand_as(logvar))
    logvar.sum().backward()
    slopes = model.to_logvar.bias.grad
    assert slopes is not None and torch.isfinite(slopes).all() and (slopes > 0).all()
