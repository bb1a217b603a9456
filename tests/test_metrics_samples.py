"""FID, KID, Inception Score, precision and recall: against other implementations, closed forms and plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.speed.feature_speed import write_random_weights
from tests.test_features import pictures, random_images
from tests.test_samplers import Flat, make_subject
from zoo.base import ImageSpec
from zoo.config import DataConfig
from zoo.data import Images, build_data, some
from zoo.errors import UserError
from zoo.metrics import kid as kid_module
from zoo.metrics import prdc as prdc_module
from zoo.metrics.core import METRICS, Score, Subject
from zoo.metrics.features import load_extractor
from zoo.metrics.fid import extrapolated_distance, fid, frechet_distance
from zoo.metrics.inception_score import inception_score, score_of_logits
from zoo.metrics.kid import kernel_distance, kid
from zoo.metrics.memorisation import authentic_share
from zoo.metrics.prdc import K, neighbour_shares, prdc


def normal(n: int, dim: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


class Canned(Flat):
    """A model whose samples are given images, in their order."""

    def __init__(self, images: Images) -> None:
        super().__init__(ImageSpec(*images.shape))
        self.images = images
        self.drawn = 0

    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        assert generator is not None
        first = generator.initial_seed() * 50  # batches of fifty are seeded by their numbers
        self.drawn += n
        return self.images.pixels[first : first + n] / 255


def canned(tmp_path: Path, samples: Images, test: Images, **benchmark: Any) -> Subject:
    return make_subject(tmp_path, Canned(samples), test, **{"n": len(samples)} | benchmark)


# Fréchet distance.


@pytest.mark.parametrize(("n", "m", "dim"), [(40, 30, 12), (20, 25, 64), (30, 200, 64)])
def test_the_frechet_distance_is_torchmetrics_and_pytorch_fids(n: int, m: int, dim: int) -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torchmetrics.image.fid import FrechetInceptionDistance

    mixing = normal(dim, dim, 2, scale=dim**-0.5)
    real, fake = normal(n, dim, 0).double(), (normal(m, dim, 1, mean=0.3) @ mixing).double()
    network = nn.Identity()
    network.num_features = dim
    theirs = FrechetInceptionDistance(network, normalize=True).set_dtype(torch.double)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert frechet_distance(real, fake) == pytest.approx(theirs.compute().item(), rel=1e-6)
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (real.numpy(), fake.numpy())]
    assert frechet_distance(real, fake) == pytest.approx(calculate_frechet_distance(*moments[0], *moments[1]), rel=1e-3)


def test_the_frechet_distance_of_two_gaussians() -> None:
    real = normal(2000, 3, 0)
    real = (real - real.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(real.T.cov())).T  # moments exactly 0, I
    fake = real * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0, 0.0, 0.5])
    assert frechet_distance(real, fake) == pytest.approx(1.25 + 0 + 1 + 4, rel=1e-4)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(real, fake) == pytest.approx(frechet_distance(fake, real))


def test_features_that_never_fire_are_no_trouble() -> None:
    real, fake = normal(50, 10, 0), normal(50, 10, 1)
    padded = [torch.cat([x, torch.zeros(50, 5)], 1) for x in (real, fake)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(real, fake), rel=1e-6)


def test_the_frechet_distance_falls_with_the_number_of_images() -> None:
    few, many = (frechet_distance(normal(n, 32, 0), normal(n, 32, 1)) for n in (50, 2000))
    assert few > 5 * many


# Kernel distance.


def test_the_extrapolated_distance_has_no_bias() -> None:
    """Of one distribution it is 0 but for chance, where that of all samples is not; of two it is the closed form."""
    dim, n = 8, 1200
    real = normal(20_000, dim, seed=0)
    found = torch.tensor([extrapolated_distance(real, normal(n, dim, seed=1 + i)) for i in range(12)])
    plain = torch.tensor([frechet_distance(real, normal(n, dim, seed=1 + i)) for i in range(12)])
    error = found.std() / 12**0.5
    assert found.mean().abs() < 4 * error + 0.002 < plain.mean()  # 20,000 real ones leave some 0.001
    moved = torch.tensor([extrapolated_distance(real, normal(n, dim, 50 + i, mean=0.5)) for i in range(12)])
    assert (moved.mean() - dim * 0.25).abs() < 4 * moved.std() / 12**0.5 + 0.02
    with pytest.raises(UserError, match="needs 32 samples for 8 features, not 31"):
        extrapolated_distance(real, real[:31])


def test_copies_of_training_images_are_seen() -> None:
    train, new = normal(400, 5, seed=0), normal(400, 5, seed=1)
    assert authentic_share(train, train) == 0
    assert authentic_share(train, train + 1e-3) == 0
    assert 0.4 < authentic_share(train, new) < 0.7
    assert authentic_share(train, torch.cat([train[:100], new[:300]])) == pytest.approx(
        0.75 * authentic_share(train, new[:300])
    )
    by_hand = []
    for s in new.double():
        t = min(train.double(), key=lambda t: (s - t).norm().item())
        others = [(t - u).norm().item() for u in train.double()]
        by_hand.append((s - t).norm().item() > sorted(others)[1])
    assert authentic_share(train, new) == pytest.approx(sum(by_hand) / 400)
    with pytest.raises(UserError, match="two training images or more, not 1"):
        authentic_share(train[:1], new)


def test_a_copy_of_any_training_image_is_seen(tmp_path: Path, digits: tuple[Images, Images]) -> None:
    """Also of the last ones, where fewer samples are drawn than there are training images."""
    train, test = digits
    subject = canned(tmp_path, Images(train.batch(torch.arange(len(train) - 100, len(train)))[0]), test)
    subject.data = replace(subject.data, train=train)
    row = METRICS.lookup("authpct_lenet").target(subject, extractor="lenet")["authpct_lenet"]
    assert row.value == 0 and f"of all {len(train)} training images" in row.protocol


def test_a_part_of_a_split_that_is_sorted_by_class_has_all_classes(
    tmp_path: Path, digits: tuple[Images, Images]
) -> None:
    samples, test = digits
    assert test.labels is not None
    ordered = test.subset(test.labels.argsort(stable=True))
    few = some(ordered, 100)
    assert few.labels is not None and len(few) == 100 and few.labels.bincount().min() >= 3
    assert torch.equal(few.labels, some(ordered, 100).labels) and some(ordered, len(ordered)) is ordered
    fewer = [fid(canned(tmp_path, samples, split, n=300), extractor="lenet")["fd_lenet"] for split in (ordered, test)]
    assert f"against 300 of {len(test)} test images, drawn by a fixed seed" in fewer[0].protocol
    sorted_first = fid(canned(tmp_path, samples, ordered.subset(torch.arange(300)), n=300), extractor="lenet")
    assert (
        fewer[0].value == pytest.approx(fewer[1].value, rel=0.5) and sorted_first["fd_lenet"].value > 2 * fewer[0].value
    )


def test_rows_of_copies_and_of_the_extrapolation(tmp_path: Path, digits: tuple[Images, Images]) -> None:
    samples, test = digits
    subject = canned(tmp_path, samples, test)
    share = METRICS.lookup("authpct_lenet").target(subject, extractor="lenet")["authpct_lenet"]
    assert share.split == "train" and 0 <= share.value <= 1 and "training images" in share.protocol
    extrapolate = METRICS.lookup("fd_infinity_lenet").target
    score = extrapolate(subject, extractor="lenet")["fd_infinity_lenet"]
    assert f"15 random subsets of 256 to {len(samples)} samples" in score.protocol
    assert score.value < fid(subject, extractor="lenet")["fd_lenet"].value
    with pytest.raises(UserError, match="the extrapolation needs 512 samples for 128 features, not 511"):
        extrapolate(canned(tmp_path, samples, test, n=511), extractor="lenet")


def test_the_kernel_distance_is_the_unbiased_double_loop() -> None:
    real, fake = normal(12, 8, 0).double(), normal(12, 8, 1, mean=0.5).double()

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 8 + 1) ** 3

    n = len(real)
    within = sum(k(s[i], s[j]) for s in (real, fake) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    between = sum(k(x, y) for x in real for y in fake) / n**2
    assert kernel_distance(real, fake)[0] == pytest.approx(within - 2 * between, rel=1e-9)


def test_the_kernel_distance_is_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    monkeypatch.setattr(kid_module, "SUBSET_SIZE", 300)
    real, fake = normal(500, 16, 0), normal(400, 16, 1, mean=0.2)

    def theirs(seed: int) -> tuple[float, float]:
        metric = KernelInceptionDistance(nn.Identity(), subsets=100, subset_size=300)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        torch.manual_seed(seed)
        mean, spread = metric.compute()
        return mean.item(), spread.item()

    mean, spread = theirs(seed=7)
    assert kernel_distance(real, fake)[0] == pytest.approx(mean, abs=4 * spread / 10)
    assert kernel_distance(real, fake)[0] == pytest.approx(theirs(seed=0)[0], rel=1e-3)
    assert kernel_distance(real, fake) == kernel_distance(real, fake)  # its subsets are seeded
    assert abs(kernel_distance(real, normal(500, 16, 2))[0]) < mean / 5


# Inception Score.


def test_the_inception_score_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = normal(4000, 20, 0, scale=2.0)
    assert score_of_logits(logits) == pytest.approx(isc_features_to_metric(logits)["inception_score_mean"], rel=0.01)
    assert score_of_logits(logits) == score_of_logits(logits)


def test_the_inception_scores_limits() -> None:
    assert score_of_logits(torch.zeros(100, 7)) == pytest.approx(1)
    certain = 100 * torch.eye(4)[torch.arange(4000) % 4]
    assert score_of_logits(certain) == pytest.approx(4, rel=0.02)


# Precision, recall, density, coverage.


def plain_loop(real: Tensor, fake: Tensor) -> dict[str, float]:
    def distance(x: Tensor, y: Tensor) -> float:
        return math.dist(x.tolist(), y.tolist())

    def radius(points: Tensor, i: int) -> float:
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[K - 1]

    real_radius, fake_radius = ([radius(points, i) for i in range(len(points))] for points in (real, fake))
    n, m = range(len(real)), range(len(fake))
    inside = [[distance(real[i], fake[j]) < real_radius[i] for j in m] for i in n]
    return {
        "precision": sum(any(inside[i][j] for i in n) for j in m) / len(fake),
        "recall": sum(any(distance(real[i], fake[j]) < fake_radius[j] for j in m) for i in n) / len(real),
        "density": sum(sum(row) for row in inside) / K / len(fake),
        "coverage": sum(any(row) for row in inside) / len(real),
    }


def test_neighbour_shares_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(45, 3, 0), normal(30, 3, 1, mean=0.9, scale=1.2)
    expected = plain_loop(real, fake)
    assert len(set(expected.values())) == 4 and all(0.1 < value < 0.99 for value in expected.values())
    assert neighbour_shares(real, fake) == pytest.approx(expected)
    monkeypatch.setattr(prdc_module, "CHUNK", 7)
    assert neighbour_shares(real, fake) == pytest.approx(expected)


def test_coverage_and_density_have_the_values_derived_for_equal_distributions() -> None:
    # Naeem et al. 2020, appendix B: the first k of 2N - 1 neighbours are all real with the probability below.
    n = 400
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, K + 1))
    runs = [neighbour_shares(normal(n, 4, seed), normal(n, 4, 100 + seed)) for seed in range(20)]
    assert np.mean([run["coverage"] for run in runs]) == pytest.approx(expected, abs=0.01)
    assert np.mean([run["density"] for run in runs]) == pytest.approx(1, abs=0.03)


def test_what_each_of_the_four_sees() -> None:
    real = torch.cat([normal(100, 2, 0), normal(100, 2, 1, mean=20.0)])
    half = neighbour_shares(real, normal(200, 2, 2))  # one of two modes
    assert half["precision"] > 0.9 and half["recall"] < 0.6 and half["coverage"] < 0.6
    noisy = neighbour_shares(real, torch.cat([real + 0.01, normal(200, 2, 3, mean=-50.0)]))
    assert noisy["precision"] == pytest.approx(0.5) and noisy["recall"] > 0.9 and noisy["coverage"] > 0.9


@pytest.mark.slow
def test_neighbour_shares_have_their_published_values() -> None:
    shares = neighbour_shares(normal(10_000, 1000, 0), normal(10_000, 1000, 1))
    published = {"precision": 0.477, "recall": 0.470, "density": 1.056, "coverage": 0.974}
    assert shares["coverage"] == pytest.approx(published["coverage"], abs=0.005)
    assert shares["precision"] == pytest.approx(published["precision"], abs=0.03)
    assert shares["recall"] == pytest.approx(published["recall"], abs=0.03)
    assert shares["density"] == pytest.approx(published["density"], abs=0.1)


# What is too little.


def test_too_few_images_are_refused_in_one_sentence() -> None:
    one, five, enough = normal(1, 4, 0), normal(K, 4, 0), normal(60, 4, 1)
    with pytest.raises(UserError, match="two images on each side, not 1 and 60: raise benchmark.n"):
        frechet_distance(enough, one)
    with pytest.raises(UserError, match="two images on each side, not 1 and 60"):
        kernel_distance(enough, one)
    with pytest.raises(UserError, match="more than 5 samples and test images, not 5 and 60: raise benchmark.n"):
        neighbour_shares(enough, five)
    with pytest.raises(UserError, match="needs 20 samples, not 1"):
        score_of_logits(one)


# As metrics of a model.


@pytest.fixture(scope="session")
def digits() -> tuple[Images, Images]:
    data = build_data(DataConfig(name="digits", test_fraction=0.5))
    return data.train, data.test


def distance_of(tmp_path: Path, samples: Images, test: Images, metric: str = "fd_lenet") -> Score:
    entry = METRICS.lookup(metric)
    rows = entry.target(canned(tmp_path, samples, test), **entry.defaults)
    assert list(rows) == [metric]
    return rows[metric]


@pytest.mark.parametrize("metric", ["fd_lenet", "kd_lenet"])
def test_worse_samples_are_further(
    tmp_path: Path, digits: tuple[Images, Images], metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kid_module, "SUBSETS", 10)
    train, test = digits
    train = train.subset(torch.arange(700))
    pixels = train.batch(torch.arange(700))[0]
    blurred = nn.functional.avg_pool2d(pixels.float(), 3, 1, 1).byte()
    noise = random_images(700, 1, 8).pixels
    good, *bad = (distance_of(tmp_path, Images(images), test, metric).value for images in (pixels, blurred, noise))
    assert good < min(bad) / 10


def test_a_row_states_its_protocol(tmp_path: Path, digits: tuple[Images, Images]) -> None:
    train, test = digits
    row = distance_of(tmp_path, Images(train.batch(torch.arange(150))[0]), test)
    assert (row.n, row.split, row.sampler, row.higher_is_better) == (150, "test", "prior", False)
    for part in (
        "Fréchet distance",
        "LeNet of this repository",
        "28 px",
        "rounded to 8 bits",
        "150 samples from prior",
        "150 of 898 test images, drawn by a fixed seed",
    ):
        assert part in row.protocol
    assert "covariances singular" not in row.protocol
    few = distance_of(tmp_path, Images(train.batch(torch.arange(60))[0]), test)
    assert "covariances singular (60 images, 128 features)" in few.protocol


def test_one_row_for_each_sampler(tmp_path: Path, digits: tuple[Images, Images]) -> None:
    train, test = digits
    samplers = ["prior", "gaussian", "gmm10"]
    subject = make_subject(tmp_path, Flat(ImageSpec(1, 8, 8)), train, test, n=300, samplers=samplers)
    rows = fid(subject, extractor="lenet") | kid(subject, extractor="lenet") | prdc(subject, extractor="lenet")
    names = ["fd_lenet", "kd_lenet"] + [f"{name}_lenet" for name in ("precision", "recall", "density", "coverage")]
    assert list(rows) == [n + s for n in names[:2] for s in ("", "@gaussian", "@gmm10")] + [
        n + s for s in ("", "@gaussian", "@gmm10") for n in names[2:]
    ]
    assert all(row.sampler == name.partition("@")[2] or row.sampler == "prior" for name, row in rows.items())
    # This decoder turns N(0, I) into grey noise: what is fitted to its latents must be nearer the data.
    assert rows["fd_lenet@gmm10"].value < 0.5 * rows["fd_lenet"].value
    assert rows["coverage_lenet@gmm10"].value > rows["coverage_lenet"].value
    assert "10 full Gaussians" in rows["fd_lenet@gmm10"].protocol


def test_metrics_share_the_samples(tmp_path: Path, digits: tuple[Images, Images]) -> None:
    train, test = digits
    subject = canned(tmp_path, Images(train.batch(torch.arange(100))[0]), test)
    for metric in (fid, kid, prdc):
        metric(subject, extractor="lenet")
    assert subject.model.drawn == 100


def test_without_inception_weights_the_metric_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[Images, Images]
) -> None:
    subject = canned(tmp_path, random_images(20, 1, 8), digits[1])
    monkeypatch.setenv("VAE_ZOO_INCEPTION", str(tmp_path / "gone.pth"))
    for metric in (fid, kid, prdc, inception_score):
        with pytest.raises(UserError, match="VAE_ZOO_INCEPTION names"):
            metric(subject)


# Over the Inception, with one random weight file for all implementations.


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


def two_sets(size: int, n: int) -> tuple[Images, Images]:
    return Images(pictures(n, size, 4, seed=1)), Images(pictures(n, size, 7, seed=2))


def folder(path: Path, images: Images) -> str:
    path.mkdir()
    for number, pixels in enumerate(images.pixels):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path / f"{number:03}.png")
    return str(path)


def by_pytorch_fid(folders: list[str], weights: Path) -> float:
    import pytorch_fid.inception
    from pytorch_fid.fid_score import calculate_fid_given_paths

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights))
        return calculate_fid_given_paths(folders, 12, "cpu", 2048, num_workers=0)


def by_torch_fidelity(folders: list[str], weights: Path, size: int) -> dict[str, float]:
    import torch_fidelity

    return torch_fidelity.calculate_metrics(
        input1=folders[0],
        input2=folders[1],
        fid=True,
        kid=True,
        kid_subset_size=size,
        kid_subsets=1,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        verbose=False,
        save_cpu_ram=True,
        cache=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64])
def test_fid_is_pytorch_fids_and_torch_fidelitys(tmp_path: Path, inception_weights: Path, size: int) -> None:
    samples, test = two_sets(size, 12)
    folders = [folder(tmp_path / "samples", samples), folder(tmp_path / "test", test)]
    subject = canned(tmp_path, samples, test, inception_weights=inception_weights)
    rows = fid(subject) | kid(subject)
    theirs = by_torch_fidelity(folders, inception_weights, 12)
    assert rows["fid"].value > 1
    assert rows["fid"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert rows["kid"].value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert "as TensorFlow 1, no antialiasing" in rows["fid"].protocol
    theirs_too = by_pytorch_fid(folders, inception_weights)
    row = fid(subject, extractor="inception_pytorch_fid")["fid"]
    assert row.value == pytest.approx(theirs_too, rel=1e-3)
    assert "as pytorch-fid" in row.protocol


def test_fid_of_a_few_images_is_torchmetrics(tmp_path: Path, inception_weights: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    samples, test = two_sets(32, 2)
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_weights), antialias=False)
    with torch.inference_mode():
        fake, real = network(samples.pixels).double(), network(test.pixels).double()
    spread = np.linalg.norm((real - real.mean(0)) @ (fake - fake.mean(0)).T, "nuc")  # over n - 1 = 1
    variances = real.var(0).sum() + fake.var(0).sum()
    expected = (real.mean(0) - fake.mean(0)).square().sum() + variances - 2 * spread
    subject = canned(tmp_path, samples, test, inception_weights=inception_weights)
    assert expected > 1
    assert fid(subject)["fid"].value == pytest.approx(expected.item(), rel=1e-3)


def test_the_inception_score_takes_torch_fidelitys_logits(tmp_path: Path, inception_weights: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    two = pictures(2, 32, 5)
    theirs = FeatureExtractorInceptionV3("inception", ["logits_unbiased"], str(inception_weights))
    with torch.inference_mode():
        logits = theirs(two)[0].repeat(10, 1)
    subject = canned(tmp_path, Images(two.repeat(10, 1, 1, 1)), Images(two), inception_weights=inception_weights)
    network = load_extractor(subject, "inception")
    with torch.inference_mode():
        subject.memo["sample features prior inception"] = network(two / 255).repeat(10, 1)  # as of twenty, but quick
    row = inception_score(subject)["inception_score"]
    assert row.value - 1 == pytest.approx(score_of_logits(logits) - 1, rel=1e-3) and row.value > 1.0001
    assert row.n == 20 and row.split == "" and row.higher_is_better and "10 seeded splits" in row.protocol
