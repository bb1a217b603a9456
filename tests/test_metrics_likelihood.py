"""Likelihood: against a linear-Gaussian model whose log p(x) is known, and binarised pixels against their grey values.

Also here: every metric's rows are the same from two processes as from one.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import MultivariateNormal

import zoo
from zoo.base import BaseVAE, Batch, ImageSpec
from zoo.config import Config
from zoo.data import Data, Images, build_data, to_float
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.metrics import cost, disentanglement, latent
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.likelihood import binarised, bits_per_dim, elbo, nll
from zoo.metrics.loss import loss
from zoo.metrics.reconstruction import psnr
from zoo.testing import StubVAE

PIXELS, LATENT = 4, 2
WEIGHT = torch.tensor([[0.6, 0.0], [0.3, 0.0], [0.0, 0.4], [0.0, -0.2]])  # orthogonal columns
BIAS = torch.tensor([0.5, 0.4, 0.6, 0.5])
VARIANCE = 0.04


def noise(n: int, *shape: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(256, (n, *shape), dtype=torch.uint8, generator=generator))


class LinearGaussian(GaussianVAE):
    """p(z) = N(0, I), p(x|z) = N(Wz + b, VARIANCE I); the posterior is exact but for standard deviations times `slack`.

    With W's columns orthogonal the exact posterior has independent dimensions: precision 1 + |w_d|^2 / VARIANCE, mean
    w_d (x - b) / VARIANCE / precision.
    """

    def __init__(self, slack: float) -> None:
        super().__init__(
            ImageSpec(1, 2, 2),
            net="mlp",
            hidden_dims=[1],
            latent_dim=LATENT,
            recon="gaussian",
            out_activation="none",
        )
        torch.nn.init.constant_(self.likelihood.logvar, math.log(VARIANCE))
        self.slack = slack
        self.decoded: list[int] = []

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        precision = 1 + WEIGHT.square().sum(0) / VARIANCE
        mu = (x.flatten(1) - BIAS) @ WEIGHT / VARIANCE / precision
        return mu, (-precision.log() + 2 * math.log(self.slack)).expand_as(mu)

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.decoded.append(len(z))
        return (z @ WEIGHT.T + BIAS).view(-1, 1, 2, 2)


def closed_form_nll(images: Images) -> float:
    """-log N(x; b, WW' + VARIANCE I), mean over images."""
    x = to_float(images.pixels, (0.0, 1.0)).flatten(1)
    return -MultivariateNormal(BIAS, WEIGHT @ WEIGHT.T + VARIANCE * torch.eye(PIXELS)).log_prob(x).mean().item()


def subject_of(model: BaseVAE, test: Images, tmp_path: Path, **config: Any) -> Subject:
    values = {"model": {"name": "mlp"}, "data": {"name": "toy"}, "steps": 1, "eval_batch_size": 50} | config
    data = Data("toy", test, test, test)
    return Subject(model.eval(), data, Config.model_validate(values), Accelerator(cpu=True), tmp_path)


def bernoulli(**options: Any) -> GaussianVAE:
    torch.manual_seed(0)
    return zoo.create(
        "mlp", ImageSpec(1, 2, 2), **{"hidden_dims": [4], "latent_dim": LATENT, "out_activation": "sigmoid"} | options
    )


def test_an_exact_posterior_gives_the_closed_form_with_one_sample(tmp_path: Path) -> None:
    images = noise(120, 1, 2, 2)
    row = nll(subject_of(LinearGaussian(1.0), images, tmp_path), k=1)["nll"]
    assert row.value == pytest.approx(closed_form_nll(images), abs=1e-4)
    assert (row.unit, row.n, row.split, row.higher_is_better) == ("nats", 120, "test", False)
    assert "1 importance samples" in row.protocol


def test_an_inexact_posterior_converges_to_the_closed_form(tmp_path: Path) -> None:
    images = noise(120, 1, 2, 2)
    subject = subject_of(LinearGaussian(1.6), images, tmp_path)
    exact = closed_form_nll(images)
    estimates = [nll(subject, k=k)["nll"].value for k in (1, 4, 16, 64, 10_000)]
    assert estimates == sorted(estimates, reverse=True)  # more samples never loosen the bound
    assert estimates[0] > exact + 0.3
    assert estimates[-1] == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_exactly_k_samples_are_decoded_in_chunks(k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.families.latent.IMAGES_PER_CHUNK", 1000)
    model = LinearGaussian(1.6)
    nll(subject_of(model, noise(120, 1, 2, 2), tmp_path), k=k)  # batches of 50, 50 and 20
    assert sum(model.decoded) == 120 * k
    assert max(model.decoded) <= 1000


def test_elbo_is_minus_distortion_and_rate(tmp_path: Path) -> None:
    images = noise(3000, 1, 2, 2)
    subject = subject_of(LinearGaussian(1.6), images, tmp_path, eval_batch_size=1000)
    rows = elbo(subject)
    assert list(rows) == ["elbo", "distortion", "rate"]
    bound, distortion, rate = (rows[name].value for name in rows)
    assert bound == pytest.approx(-distortion - rate)

    # KL(N(m, s^2 slack^2) || N(0, 1)), and the loss to the closed form: KL(q || exact posterior), the same for all x.
    model = subject.model
    mu, logvar = model.encode(to_float(images.pixels, (0.0, 1.0)))
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(1).mean().item()
    assert rate == pytest.approx(kl, rel=1e-5)
    gap = LATENT * (0.5 * (1.6**2 - 1) - math.log(1.6))
    assert -bound == pytest.approx(closed_form_nll(images) + gap, abs=0.15)  # of 0.62
    assert [row.higher_is_better for row in rows.values()] == [True, False, None]


@pytest.mark.parametrize("recon", ["mse", "l1", "gaussian"])
def test_elbo_counts_the_likelihoods_constants(recon: str, tmp_path: Path) -> None:
    subject = subject_of(bernoulli(recon=recon), noise(500, 1, 2, 2), tmp_path)
    rows = elbo(subject)
    assert -rows["elbo"].value == pytest.approx(nll(subject, k=1)["nll"].value, abs=0.1)


def test_bits_per_dim_of_a_uniform_density() -> None:
    # 256 levels, 1/255 apart, cover a range of 256/255: uniform there, each has a probability of 1/256.
    pixels = 12
    uniform = pixels * math.log(256 / 255)
    assert bits_per_dim(uniform, pixels, 1 / 255) == pytest.approx(8)
    # The same density on [-1, 1] is half as high.
    assert bits_per_dim(uniform + pixels * math.log(2), pixels, 2 / 255) == pytest.approx(8)
    # Fair coins need one bit each.
    assert bits_per_dim(pixels * math.log(2), pixels) == pytest.approx(1)


@pytest.mark.parametrize(("recon", "range_"), [("mse", (0.0, 1.0)), ("mse", (-1.0, 1.0)), ("bce", (0.0, 1.0))])
def test_bits_per_dim_row(recon: str, range_: tuple[float, float], tmp_path: Path) -> None:
    model = zoo.create("mlp", ImageSpec(3, 2, 2, range_), recon=recon, hidden_dims=[4], latent_dim=LATENT)
    images = binarised(noise(60, 3, 2, 2), 0) if recon == "bce" else noise(60, 3, 2, 2)
    rows = nll(subject_of(model, images, tmp_path), k=3)
    spacing = 1.0 if recon == "bce" else (range_[1] - range_[0]) / 255
    row = rows["bits_per_dim"]
    assert row.unit == "bits/dim"
    assert row.value == pytest.approx(bits_per_dim(rows["nll"].value, 12, spacing))
    assert ("density times the spacing" in row.protocol) == (recon == "mse")
    assert ("black or white in the data" in row.protocol) == (recon == "bce")


@pytest.mark.parametrize(("recon", "level"), [("continuous_bernoulli", False), ("logistic_mixture", True)])
def test_bits_say_their_likelihood(recon: str, level: bool, tmp_path: Path) -> None:
    """A probability of levels is one already; a density is multiplied by what lies between two."""
    model = zoo.create("mlp", ImageSpec(1, 2, 2), hidden_dims=[4], latent_dim=LATENT, recon=recon)
    rows = nll(subject_of(model, noise(20, 1, 2, 2), tmp_path), k=2)
    row = rows["bits_per_dim"]
    assert row.value == pytest.approx(bits_per_dim(rows["nll"].value, 4, 1.0 if level else 1 / 255))
    assert f"likelihood {recon!r}" in row.protocol
    assert ("probability of a pixel's 256 levels" in row.protocol) == level
    assert ("density times the spacing" in row.protocol) != level
    with pytest.raises(UserError, match="recon 'bce', not"):
        nll(subject_of(model, noise(20, 1, 2, 2), tmp_path), k=2, binarise="fixed")


def test_grey_pixels_under_a_bernoulli_have_no_bits(tmp_path: Path) -> None:
    model = zoo.create("mlp", ImageSpec(3, 2, 2), recon="bce", hidden_dims=[4], latent_dim=LATENT)
    (row,) = nll(subject_of(model, noise(60, 3, 2, 2), tmp_path), k=3).values()
    assert "grey pixels: not a normalised density" in row.protocol


def test_binarised_pixels_are_white_with_their_grey_value_as_probability() -> None:
    n = 4000
    ramp = Images(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(n, 1, 16, 16))
    pixels = binarised(ramp, 0).pixels
    assert pixels.unique().tolist() == [0, 255]
    grey = torch.arange(256) / 255
    mean = pixels.double().mean(0).flatten() / 255
    deviation = (grey * (1 - grey) / n).sqrt()
    assert ((mean - grey).abs() <= 4.5 * deviation).all()  # black and white pixels have no deviation
    assert (mean - grey).mean().abs() < 4.5 * deviation.mean() / 16  # pixels are drawn independently


def test_binarised_keeps_the_order_and_labels_of_a_subset() -> None:
    images = Images(torch.tensor([0, 255, 128]).byte().view(3, 1, 1, 1), labels=torch.tensor([7, 8, 9]))
    drawn = binarised(images.subset(torch.tensor([1, 0])), 0)
    assert drawn.pixels.flatten().tolist() == [255, 0]
    assert drawn.labels is not None
    assert drawn.labels.tolist() == [8, 7]


def test_the_first_images_are_drawn_alike_however_many_follow() -> None:
    images = noise(2500, 1, 2, 2)
    few = binarised(images.subset(torch.arange(1300)), 0)
    assert torch.equal(few.pixels, binarised(images, 0).pixels[:1300])
    # One draw for ever: these numbers never change.
    assert (binarised(images, 0).pixels == 255).sum(0).flatten().tolist() == [1242, 1252, 1294, 1255]


def test_dynamic_binarisation_follows_the_seed_and_fixed_does_not(tmp_path: Path) -> None:
    model, images = bernoulli(), noise(200, 1, 2, 2)
    subjects = [subject_of(model, images, tmp_path, seed=seed) for seed in (0, 1)]
    for metric, name in ((elbo, "elbo"), (nll, "nll")):
        dynamic = [metric(subject, binarise="dynamic")[f"{name}_dynamic"].value for subject in subjects]
        fixed = [metric(subject, binarise="fixed")[f"{name}_fixed"].value for subject in subjects]
        assert dynamic[0] != dynamic[1]
        assert fixed[0] == fixed[1]
        assert fixed[0] not in dynamic


def test_binarised_likelihood_is_that_of_the_binarised_pixels(tmp_path: Path) -> None:
    model, images = bernoulli(), noise(200, 1, 2, 2)
    rows = nll(subject_of(model, images, tmp_path), k=5, binarise="fixed")
    expected = nll(subject_of(model, binarised(images, 0), tmp_path), k=5)
    assert list(rows) == ["nll_fixed", "bits_per_dim_fixed"]
    assert [row.value for row in rows.values()] == [row.value for row in expected.values()]
    assert "not Larochelle's file" in rows["nll_fixed"].protocol


def test_binarisation_has_metrics_of_its_own(tmp_path: Path) -> None:
    subject = subject_of(bernoulli(), noise(60, 1, 2, 2), tmp_path)
    protocols = set()
    for kind in ("dynamic", "fixed"):
        entry = METRICS.lookup(f"nll_{kind}")
        row: Score = entry.target(subject, k=2, **entry.defaults)[f"nll_{kind}"]
        protocols.add(row.protocol)
        assert f"elbo_{kind}" in elbo(subject, **METRICS.lookup(f"elbo_{kind}").defaults)
    assert len(protocols) == 2


@pytest.mark.parametrize("metric", [elbo, nll])
def test_binarisation_needs_a_likelihood_of_binary_pixels(metric: Any, tmp_path: Path) -> None:
    subject = subject_of(bernoulli(recon="mse"), noise(60, 1, 2, 2), tmp_path)
    with pytest.raises(UserError, match=r"binarise=fixed needs images in \[0, 1\].* not 'mse' on \[0, 1\]"):
        metric(subject, binarise="fixed")


class Autoencoder(StubVAE):
    """Has neither a likelihood nor a bound."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": batch.x.mean()}


def test_models_without_a_likelihood_are_told_so(tmp_path: Path) -> None:
    model = Autoencoder(ImageSpec(1, 2, 2))
    subject = subject_of(model, noise(10, 1, 2, 2), tmp_path)
    for metric in (elbo, nll):
        with pytest.raises(UserError, match="'mlp' has no likelihood"):
            metric(subject)
    model.likelihood = bernoulli().likelihood
    with pytest.raises(UserError, match="'mlp' has no log_likelihood"):
        nll(subject)
    with pytest.raises(UserError, match="'mlp' does not report elbo and kl"):
        elbo(subject)


def rows_of_every_kind() -> dict[str, tuple[float, int, str]]:
    """What one process of however many there are is told by metrics that share their work out in different ways."""
    config = Config.model_validate(
        {"model": {"name": "mlp"}, "data": {"name": "shapes", "size": 8, "limit": 300}, "steps": 1}
        | {"eval_batch_size": 13}
    )
    data = build_data(config.data)
    torch.manual_seed(0)
    model = zoo.create("mlp", data.spec((0.0, 1.0)), hidden_dims=[8], latent_dim=3).eval()
    subject = Subject(model, data, config, Accelerator(cpu=True), Path())
    rows: dict[str, Score] = loss(subject) | psnr(subject) | elbo(subject) | nll(subject, k=3, binarise="dynamic")
    for metric in (latent.active_units, latent.mutual_information, disentanglement.mig_metric, cost.cost):
        rows |= metric(subject)
    timed = ("sampling_images_per_second", "peak_memory")
    return {name: (row.value, row.n, row.protocol) for name, row in rows.items() if name not in timed}


def run_rank() -> None:
    """Print the rows, and how many processes shared the work."""
    cost.SECONDS = 0.01
    rows = rows_of_every_kind()
    print("ROWS", json.dumps([torch.distributed.get_world_size(), rows]))
    # A thread of the group's that outlives the interpreter can abort the process (pytorch/pytorch#190489).
    torch.distributed.destroy_process_group()


def test_two_processes_score_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SECONDS", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(Path(zoo.__file__).parents[1]), str(Path(__file__).parent)])
    shared = {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", "import test_metrics_likelihood as t; t.run_rank()"]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    one = rows_of_every_kind()
    outputs = [process.communicate(timeout=300) for process in ranks]
    for process, (_, errors) in zip(ranks, outputs, strict=True):
        assert process.returncode == 0, errors
    (world, two), (_, other) = (json.loads(out.split("ROWS ")[1]) for out, _ in outputs)
    assert world == 2
    assert two == other
    assert two.keys() == one.keys()
    for name, (value, n, protocol) in one.items():
        assert two[name][1:] == [n, protocol]
        assert two[name][0] == pytest.approx(value, rel=1e-5), name
