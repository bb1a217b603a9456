"""Disentanglement: perfect codes, codes of known score, random codes and rotated ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import zoo
from zoo.base import BaseVAE, ImageSpec
from zoo.config import Config, DataConfig
from zoo.data import Data, Images, build_data
from zoo.errors import UserError
from zoo.metrics import disentanglement
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.disentanglement import (
    beta_vae_score,
    dci,
    factor_vae_score,
    mig,
    modularity,
    sap,
    sap_maximum,
)
from zoo.testing import StubVAE

GRID = np.stack(np.unravel_index(np.arange(8**4), (8, 8, 8, 8)), axis=1)  # every choice of 4 factors of 8 values
PERFECT = ((GRID - 3.5) / GRID.std(axis=0)).astype(np.float32)
# Each dimension is half the sum or difference of all four factors.
HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32) / 2
RANDOM = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)


def disentangled(codes: np.ndarray, factors: np.ndarray) -> float:
    return dci(codes, factors)[0]


def complete(codes: np.ndarray, factors: np.ndarray) -> float:
    return dci(codes, factors)[1]


def informative(codes: np.ndarray, factors: np.ndarray) -> float:
    return dci(codes, factors)[2]


def grid(*sizes: int, copies: int = 1) -> np.ndarray:
    """Every choice of factors of so many values, each `copies` times."""
    return np.tile(np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1), (copies, 1))


Measure = Callable[[np.ndarray, np.ndarray], float]


@pytest.mark.parametrize(
    ("measure", "perfect", "rotated", "random", "tolerance"),
    [
        (mig, 1.0, 0.0, 0.0, 0.005),
        (modularity, 1.0, 0.0, 0.22, 0.1),  # noise is far from 0: why the chance level stands beside it
        (disentangled, 1.0, 0.0, 0.0, 0.01),
        (complete, 1.0, 0.0, 0.0, 0.01),
        (informative, 1.0, 0.53, 0.125, 0.03),  # a forest undoes some of the rotation
        (sap, 7 / 8, 0.0, 0.0, 0.02),
        (factor_vae_score, 1.0, 0.25, 0.25, 0.02),
        (beta_vae_score, 1.0, 0.25, 0.25, 0.02),
    ],
)
def test_perfect_rotated_and_random_codes(
    measure: Measure, perfect: float, rotated: float, random: float, tolerance: float
) -> None:
    assert measure(PERFECT, GRID) == pytest.approx(perfect, abs=1e-6)
    assert measure(PERFECT[:, [2, 0, 3, 1]] * [1, -2, 3, 0.5], GRID) == pytest.approx(perfect, abs=1e-6)
    assert measure(PERFECT @ HADAMARD, GRID) == pytest.approx(rotated, abs=tolerance)
    assert measure(RANDOM, GRID) == pytest.approx(random, abs=tolerance)


@pytest.mark.parametrize("measure", [mig, modularity, disentangled, complete, sap, factor_vae_score, beta_vae_score])
def test_a_slight_rotation_costs_less_than_a_strong_one(measure: Measure) -> None:
    def rotated(degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return PERFECT @ np.kron(np.eye(2), [[c, -s], [s, c]]) + 0.02 * RANDOM

    none, slight, strong = (measure(rotated(degrees), GRID) for degrees in (0, 5, 45))
    assert none >= slight > strong + 0.2


@pytest.mark.parametrize("measure", [mig, modularity, disentangled, complete, sap, factor_vae_score, beta_vae_score])
def test_factors_that_do_not_vary_are_left_out(measure: Measure) -> None:
    codes, factors = PERFECT + 0.8 * RANDOM, GRID.copy()
    with_constant = np.insert(factors, 2, 7, axis=1)
    assert measure(codes, with_constant) == measure(codes, factors)


@pytest.mark.parametrize(
    ("measure", "value"),
    [(mig, 1.0), (disentangled, 1.0), (complete, 1.0), (sap, 7 / 8), (factor_vae_score, 1.0), (beta_vae_score, 1.0)],
)
def test_dead_dimensions_cost_nothing(measure: Measure, value: float) -> None:
    assert measure(np.c_[PERFECT, np.zeros((len(GRID), 2))], GRID) == pytest.approx(value, abs=1e-6)


def test_mig_of_a_known_gap() -> None:
    # The first factor: log 4 in one dimension, log 2 in the other, of an entropy of log 4. The second: nowhere.
    factors = grid(4, 3)
    codes = np.stack([factors[:, 0], factors[:, 0] // 2], axis=1)
    assert mig(codes, factors) == pytest.approx((0.5 + 0) / 2)


def test_the_gap_is_to_the_second_dimension_not_to_the_last() -> None:
    """Two dimensions know the first factor equally well, and the third nothing: there is no gap."""
    factors = grid(4, 2, copies=10)
    codes = np.stack([factors[:, 0], -factors[:, 0], np.zeros(len(factors))], axis=1)
    assert mig(codes, factors) == pytest.approx(0, abs=1e-9)
    assert sap(codes, factors) == pytest.approx(0, abs=1e-9)


def test_mig_and_modularity_bin_continuous_codes_in_twenty() -> None:
    # A ramp over a factor of 40 values: 20 equal bins hold log 20 of its log 40.
    factors = grid(40, 2)
    codes = np.stack([factors[:, 0] + 0.5, factors[:, 1]], axis=1)
    assert mig(codes, factors) == pytest.approx((np.log(20) / np.log(40) + 1) / 2)


def test_modularity_of_a_known_mixture() -> None:
    factors = grid(4, 2)
    both = factors[:, 0] * 2 + factors[:, 1]  # log 4 of one factor, log 2 of the other
    none = np.zeros(8)
    assert modularity(np.stack([both, factors[:, 1]], 1), factors) == pytest.approx((1 - 1 / 4 + 1) / 2)
    assert modularity(np.stack([none, factors[:, 1]], 1), factors) == pytest.approx(1 / 2)
    three = grid(4, 2, 2)
    both = three[:, 0] * 2 + three[:, 1]
    assert modularity(np.stack([both, both], 1), three) == pytest.approx(1 - 1 / 4 / 2)


def test_dci_tells_disentanglement_from_completeness() -> None:
    bits = grid(2, 2, 2, copies=100)
    split = np.stack([2 * bits[:, 0] + bits[:, 1], bits[:, 2]], axis=1)  # two dimensions share the first factor
    disentanglement, completeness, informativeness = dci(bits, split)
    assert disentanglement == pytest.approx(1, abs=1e-6)
    assert completeness == pytest.approx((1 - np.log(2) / np.log(3) + 1) / 2, abs=0.01)
    assert informativeness == 1

    joint = np.stack([2 * bits[:, 0] + bits[:, 1], bits[:, 2]], axis=1)  # the first dimension holds two factors
    disentanglement, completeness, informativeness = dci(joint, bits)
    # Two thirds of all importance lie with the dimension that holds two of three factors.
    assert disentanglement == pytest.approx(2 / 3 * (1 - np.log(2) / np.log(3)) + 1 / 3, abs=0.01)
    assert completeness == pytest.approx(1, abs=1e-6)
    assert informativeness == 1


def test_sap_of_a_known_gap() -> None:
    factors = grid(4, 2, copies=10)
    codes = np.stack([factors[:, 0], factors[:, 0] // 2], axis=1)  # tells 4 of 4, and 2 of 4 values
    assert sap(codes, factors) == pytest.approx((1 - 0.5 + 0) / 2)
    assert sap_maximum(factors) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_sap_counts_rare_values_as_much_as_common_ones() -> None:
    rare = (np.arange(1000) % 10 == 0).astype(int)
    # Holds all 100 rare points and 200 of the 900 common ones: right for all of one kind, seven ninths of the other.
    suspicious = (np.arange(1000) % 10 < 3).astype(int)
    noise = np.arange(1000) // 500
    factors = np.stack([rare, noise], axis=1)
    assert sap(np.stack([rare, noise], axis=1), factors) == pytest.approx(0.5)
    assert sap(np.stack([suspicious, noise], axis=1), factors) == pytest.approx(((1 + 7 / 9) / 2 - 0.5 + 0.5) / 2)


def test_factor_vae_score_leaves_out_dimensions_by_their_standard_deviation() -> None:
    assert factor_vae_score(0.06 * PERFECT, GRID) == 1
    assert factor_vae_score(0.04 * PERFECT, GRID) == 0
    # A collapsed dimension that no longer varies while any factor is fixed would get every vote.
    spike = np.zeros((len(GRID), 1), np.float32)
    spike[0] = 1
    assert factor_vae_score(np.c_[PERFECT, spike], GRID) == 1


def test_factor_vae_score_compares_variances_with_each_dimensions_own() -> None:
    assert factor_vae_score(PERFECT * [0.1, 1, 10, 100] + 0.3 * RANDOM * [0.1, 1, 10, 100], GRID) == 1


@pytest.mark.parametrize("measure", [factor_vae_score, beta_vae_score])
def test_classifiers_are_tested_on_other_votes_than_they_are_fitted_to(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of codes that know nothing, many dimensions and few votes are learned by heart; new votes are guessed."""
    monkeypatch.setattr(disentanglement, "VOTES", (200, 200))
    noise = np.random.default_rng(1).normal(size=(len(GRID), 100)).astype(np.float32)
    assert measure(noise, GRID) == pytest.approx(0.25, abs=0.15)  # learned by heart: above 0.5


def test_scores_are_the_same_at_every_call() -> None:
    codes = PERFECT + RANDOM
    for measure in (dci, factor_vae_score, beta_vae_score):
        assert measure(codes, GRID) == measure(codes, GRID)
    assert factor_vae_score(codes, GRID, seed=1) != factor_vae_score(codes, GRID)


class PixelsAsCodes(StubVAE):
    """The posterior mean of an image is its pixels."""

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.encoded = 0

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.encoded += len(x)
        return x.flatten(1), torch.zeros(len(x), x[0].numel())


def subject_of(data: Data, model: BaseVAE, tmp_path: Path) -> Subject:
    config = Config.model_validate({"model": {"name": "mlp"}, "data": {"name": data.name}, "steps": 1})
    return Subject(model, data, config, Accelerator(cpu=True), tmp_path)


def factors_as_pixels(copies: int, known: bool = True) -> Data:
    factors = torch.from_numpy(grid(10, 5, 4, copies=copies))
    factors = factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))]
    images = Images((factors * 20).byte()[:, :, None, None], factors=factors if known else None)
    n = len(images)
    parts = (images.subset(torch.arange(n)[i * n // 4 : (i + 1) * n // 4]) for i in (0, 2, 3))
    return Data("toy", *parts)


NAMES = ["mig", "modularity", "dci", "sap", "factor_vae_score", "beta_vae_score"]


def test_metrics_of_a_model_whose_codes_are_the_factors(tmp_path: Path) -> None:
    data = factors_as_pixels(100)
    model = PixelsAsCodes(data.spec((0.0, 1.0)))
    subject = subject_of(data, model, tmp_path)
    rows: dict[str, Score] = {}
    for name in NAMES:
        rows |= METRICS.lookup(name).target(subject)
    assert model.encoded == 10_000  # of 15,000, once for all six
    sap_row = rows.pop("sap")
    assert sap_row.value == pytest.approx(0.9 / 3 + 0.8 / 3 + 0.75 / 3, abs=0.02)
    assert "perfect codes have 0.817" in sap_row.protocol
    chance = rows.pop("modularity_chance")
    assert 0.2 < chance.value < 0.95
    assert chance.higher_is_better is None
    assert {name: row.value for name, row in rows.items()} == pytest.approx(dict.fromkeys(rows, 1.0), abs=0.01)
    assert list(rows) == [
        *("mig", "modularity", "dci_disentanglement", "dci_completeness", "dci_informativeness"),
        *("factor_vae_score", "beta_vae_score"),
    ]
    for row in rows.values():
        assert (row.n, row.split, row.higher_is_better) == (10_000, "train+val+test", True)
        assert "posterior means" in row.protocol


def test_points_come_from_all_images(tmp_path: Path) -> None:
    data = factors_as_pixels(10)
    subject = subject_of(data, PixelsAsCodes(data.spec((0.0, 1.0))), tmp_path)
    codes, factors = disentanglement._points(subject)
    assert len(codes) == len(data.train) + len(data.val) + len(data.test)
    np.testing.assert_allclose(codes * 255 / 20, factors, atol=1e-4)


def test_data_without_known_factors(tmp_path: Path) -> None:
    data = factors_as_pixels(1, known=False)
    subject = subject_of(data, PixelsAsCodes(data.spec((0.0, 1.0))), tmp_path)
    for name in NAMES:
        with pytest.raises(UserError, match="known factors of variation, which the data set 'toy' does not have"):
            METRICS.lookup(name).target(subject)


def test_one_latent_dimension(tmp_path: Path) -> None:
    images = Images(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), factors=torch.from_numpy(grid(2, 2)))
    data = Data("toy", images, images, images)
    with pytest.raises(UserError, match="two latent dimensions and two factors"):
        disentanglement._points(subject_of(data, PixelsAsCodes(data.spec((0.0, 1.0))), tmp_path))


def test_metrics_of_a_real_variant_on_shapes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"name": "shapes", "size": 16, "limit": 1500, "val_fraction": 0.0007}
    data = build_data(DataConfig.model_validate(options))
    model = zoo.create("beta", data.spec((0.0, 1.0)), net="mlp", hidden_dims=[16], latent_dim=3)
    subject = subject_of(data, model.eval(), tmp_path)
    for name in NAMES:
        for row in METRICS.lookup(name).target(subject).values():
            assert row.n == 1500
            assert 0 <= row.value <= 1
