"""Feature extractors: the Inception's weight files, the classifier in the repository, and features kept and shared."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.speed.feature_speed import write_random_weights
from tests.test_samplers import Flat, Rank, make_subject
from zoo.base import ImageSpec
from zoo.config import DataConfig
from zoo.data import Images, build_data, some, to_float
from zoo.errors import UserError
from zoo.metrics import features
from zoo.metrics.core import Subject
from zoo.metrics.features import (
    EXTRACTORS,
    INCEPTION_FILES,
    INCEPTION_VARIABLE,
    LENET_FILE,
    Extractor,
    Inception,
    LeNet,
    inception_file,
    load_extractor,
    reconstruction_features,
    reference_features,
    register_extractor,
    sample_features,
)
from zoo.weights import weights_digest


def random_images(n: int, channels: int = 3, size: int = 16, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8))


class Corner(nn.Module):
    """Sixteen pixels, and a count of the images seen."""

    num_features = 16
    protocol = "upper left corner"

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images[:, 0, :4, :4].flatten(1)


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(autouse=True)
def corner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXTRACTORS, "_entries", dict(EXTRACTORS._entries))
    register_extractor("corner")(Corner)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    spec = ImageSpec(3, 16, 16)
    return make_subject(tmp_path, Flat(spec), random_images(60), random_images(130, seed=1), n=120)


# The 2015 Inception.


@pytest.fixture(scope="session")
def weight_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="session")
def inception(weight_file: Path) -> Inception:
    return Inception(inception_weights=weight_file).eval()


def pictures(n: int, size: int, grain: int, seed: int = 0) -> Tensor:
    """Smooth uint8 pictures, `[n, 3, size, size]`; a greater grain is finer."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, grain, grain, generator=generator)
    return nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1).mul(255).round().byte()


@pytest.mark.parametrize("size", [32, 64])
def test_inception_features_are_torchmetrics(inception: Inception, weight_file: Path, size: int) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    images = pictures(2, size, 6)
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weight_file), antialias=False)
    with torch.inference_mode():
        expected, found = network(images), inception(images / 255)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_inception_features_are_pytorch_fids_with_its_resize(weight_file: Path) -> None:
    import pytorch_fid.inception as other

    images = pictures(2, 32, 6) / 255
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(other, "load_state_dict_from_url", lambda *_, **__: torch.load(weight_file))
        expected = other.InceptionV3([3]).eval()(images)[0].flatten(1)
        found = Inception(inception_weights=weight_file, resize="pytorch_fid").eval()(images)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_grey_images_are_shown_in_all_channels(inception: Inception) -> None:
    grey = pictures(1, 28, 6)[:, :1] / 255
    with torch.inference_mode():
        assert torch.equal(inception(grey), inception(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        inception(torch.rand(1, 2, 8, 8))


def test_both_published_layouts_are_one(weight_file: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("inception", ["2048"], str(weight_file)).state_dict()
    ours = torch.load(weight_file)
    assert theirs.keys() == ours.keys() and all(theirs[key].shape == ours[key].shape for key in ours)


def test_the_scores_digest_is_that_in_the_files_name(inception: Inception, weight_file: Path) -> None:
    import hashlib

    assert inception.digest == hashlib.sha256(weight_file.read_bytes()).hexdigest()[:8]
    assert INCEPTION_FILES[0].endswith("6726825d.pth")  # torch hub's convention: the first digits of this very hash


def test_the_weights_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    with pytest.raises(UserError, match="could not be downloaded .*no network here") as caught:
        inception_file(None)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for way in (str(cache), "https://", "--inception-weights", INCEPTION_VARIABLE):
        assert way in sentence

    second = empty(cache / INCEPTION_FILES[1])
    assert inception_file(None) == second
    first = empty(cache / INCEPTION_FILES[0])
    assert inception_file(None) == first
    variable = empty(tmp_path / "variable.pth")
    monkeypatch.setenv(INCEPTION_VARIABLE, str(variable))
    assert inception_file(None) == variable
    configured = empty(tmp_path / "configured.pth")
    assert inception_file(configured) == configured


def test_a_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="benchmark.inception_weights names .*gone.pth, but there is no such file"):
        inception_file(tmp_path / "gone.pth")
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / "gone.pth"))
    with pytest.raises(UserError, match=f"{INCEPTION_VARIABLE} names .*gone.pth, but there is no such file"):
        inception_file(None)


def test_the_weights_are_downloaded_into_torch_hubs_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: str, digest: str, progress: bool) -> None:
        assert url.endswith(f"{digest}.pth")
        Path(path).write_text("weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    path = inception_file(None)
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILES[0] and path.read_text() == "weights"


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize("content", ["text", "other network", "code"])
def test_a_file_with_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("<html>404</html>")
    elif content == "code":
        path.write_bytes(pickle.dumps(Trap(), protocol=2))
    else:
        torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UserError, match="does not hold the weights of the 2015 Inception") as caught:
        Inception(inception_weights=path)
    assert "\n" not in str(caught.value)


def test_the_configs_weights_reach_the_inception(subject: Subject, tmp_path: Path) -> None:
    subject.config.benchmark.inception_weights = tmp_path / "configured.pth"
    for _ in range(2):  # the second time from the memo
        with pytest.raises(UserError, match="configured.pth"):
            load_extractor(subject, "inception")


# The classifier in the repository.


def test_the_classifier_knows_digits() -> None:
    with safe_open(LENET_FILE, "pt") as file:
        metadata = file.metadata()
    assert LENET_FILE.stat().st_size < 1_000_000
    assert metadata["command"].endswith("python -m benchmarks.train_lenet") and "mnist" in metadata["accuracy"]
    model = LeNet().eval()
    test = build_data(DataConfig(name="digits")).test
    pixels, labels = test.batch(torch.arange(len(test)))
    features_ = model(to_float(pixels, (0.0, 1.0)))  # 8 px
    assert features_.shape == (len(test), LeNet.num_features)
    assert (model.logits(features_).argmax(1) == labels).double().mean() > 0.9


@pytest.mark.slow
def test_the_classifier_has_the_accuracy_it_states(real_mnist: Path) -> None:
    test = build_data(DataConfig(name="mnist", root=real_mnist)).test
    pixels, labels = test.batch(torch.arange(len(test)))
    model = LeNet().eval()
    with torch.no_grad():
        accuracy = (model.logits(model(to_float(pixels, (0.0, 1.0)))).argmax(1) == labels).double().mean()
    with safe_open(LENET_FILE, "pt") as file:
        assert f"{100 * accuracy:.2f} % of 10000 mnist test images" in file.metadata()["accuracy"]
    assert accuracy > 0.98


def test_the_classifier_takes_any_size_and_colours() -> None:
    model = LeNet().eval()
    for size in (8, 28, 32, 64):
        grey = pictures(2, size, 5)[:, :1] / 255
        assert torch.allclose(model(grey), model(grey.expand(-1, 3, -1, -1)), atol=1e-4)
    square = torch.zeros(1, 1, 28, 28)
    square[..., 5:20, 10:15] = 1
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        colour = square * torch.eye(3)[channel].view(3, 1, 1)
        assert torch.allclose(model(colour), model(weight * square), atol=1e-4)
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        model(torch.rand(1, 2, 8, 8))


# Any module.


def test_any_module_can_be_registered(subject: Subject) -> None:
    register_extractor("mine")(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    extractor = load_extractor(subject, "mine")
    pixels = some(subject.data.test, 120).batch(torch.arange(120))[0]
    expected = (pixels / 255.0).mean((2, 3))
    assert torch.allclose(reference_features(subject, extractor), expected, atol=1e-6)
    assert extractor.row("fid", "fd") == "fd_mine" and extractor.row("kid", "kd", "gmm10") == "kd_mine@gmm10"
    assert "extractor 'mine'" in extractor.protocol and "rounded to 8 bits" in extractor.protocol


def test_only_the_inception_is_called_by_its_name(inception: Inception) -> None:
    assert Extractor("inception_pytorch_fid", inception, "").row("fid", "fd") == "fid"
    assert Extractor("lenet", LeNet(), "").row("fid", "fd") == "fd_lenet"


def test_an_unknown_extractor_is_named(subject: Subject) -> None:
    with pytest.raises(UserError, match="no feature extractor named 'lent'. Did you mean 'lenet'"):
        load_extractor(subject, "lent")


def test_extractors_see_what_a_png_would_hold(tmp_path: Path) -> None:
    x = torch.linspace(-0.5, 1.5, 48).view(1, 3, 4, 4)
    found = Extractor("raw", nn.Identity(), "")(x)
    bytes_ = (x.clamp(0, 1) * 255).round().byte()
    Image.fromarray(bytes_[0].permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    stored = torch.frombuffer(bytearray(Image.open(tmp_path / "x.png").tobytes()), dtype=torch.uint8)
    assert torch.equal(found, stored.view(4, 4, 3).permute(2, 0, 1)[None] / 255)


def test_the_digest_is_of_the_weights(subject: Subject) -> None:
    def linear(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        register_extractor(name)(lambda seed=seed: linear(seed))
    a, b, c = (load_extractor(subject, name) for name in "abc")
    assert a.digest == b.digest != c.digest


# Kept and shared.


def seen(subject: Subject) -> int:
    return load_extractor(subject, "corner").module.seen


def again(subject: Subject, **changes: Any) -> Subject:
    """Another evaluation, in which nothing is remembered but what is on the disk."""
    return replace(subject, memo={}, **changes)


def test_the_reference_is_computed_once_and_kept(subject: Subject) -> None:
    first = reference_features(subject, load_extractor(subject, "corner"))
    pixels = some(subject.data.test, 120).batch(torch.arange(120))[0]
    assert torch.allclose(first, pixels[:, 0, :4, :4].flatten(1) / 255)
    assert seen(subject) == 120
    second = again(subject)
    assert torch.equal(reference_features(second, load_extractor(second, "corner")), first) and seen(second) == 0


def changed_images(subject: Subject) -> Subject:
    test = subject.data.test
    pixels = test.pixels.clone()
    drawn = some(test, 120).index
    assert drawn is not None
    pixels[drawn[-1], 2, 15, 15] ^= 1
    return again(subject, data=replace(subject.data, test=replace(test, pixels=pixels)))


def fewer_images(subject: Subject) -> Subject:
    subject = again(subject, config=subject.config.model_copy(deep=True))
    subject.config.benchmark.n = 100
    return subject


def other_resize(subject: Subject) -> Subject:
    class Corner(globals()["Corner"]):
        protocol = "upper left corner, resized"

    del EXTRACTORS._entries["corner"]
    register_extractor("corner")(Corner)
    return again(subject)


def other_weights(subject: Subject) -> Subject:
    class Corner(globals()["Corner"]):
        digest = "ffffffff"

    del EXTRACTORS._entries["corner"]
    register_extractor("corner")(Corner)
    return again(subject)


def half_a_file(subject: Subject) -> Subject:
    (file,) = subject.cache.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    return again(subject)


def a_flipped_byte(subject: Subject) -> Subject:
    (file,) = subject.cache.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)
    return again(subject)


def another_shape(subject: Subject) -> Subject:
    (file,) = subject.cache.glob("*.safetensors")
    content = {"features": torch.zeros(3)}
    save_file(content, file, {"digest": weights_digest(content)})
    return again(subject)


@pytest.mark.parametrize(
    "change",
    [changed_images, fewer_images, other_resize, other_weights, half_a_file, a_flipped_byte, another_shape],
)
def test_another_reference_is_computed_anew(subject: Subject, change: Any) -> None:
    reference_features(subject, load_extractor(subject, "corner"))
    other = change(subject)
    reference_features(other, load_extractor(other, "corner"))
    assert seen(other) == min(120, other.config.benchmark.n)


def test_a_rank_without_the_file_makes_all_compute(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    reference_features(subject, load_extractor(subject, "corner"))
    monkeypatch.setattr(features, "gather_object", lambda found: [*found, False])
    other = again(subject)
    reference_features(other, load_extractor(other, "corner"))
    assert seen(other) == 120


def test_features_are_shared_in_one_evaluation(subject: Subject) -> None:
    extractor = load_extractor(subject, "corner")
    for _ in range(2):
        reference_features(subject, extractor)
        sample_features(subject, extractor, "prior")
        sample_features(subject, extractor, "gaussian")
        reconstruction_features(subject, extractor)
    assert seen(subject) == 4 * 120


def test_reconstructions_are_of_the_reference(tmp_path: Path) -> None:
    subject = make_subject(tmp_path, Flat(ImageSpec(3, 16, 16)), random_images(60), n=50)
    extractor = load_extractor(subject, "corner")
    expected = reference_features(subject, extractor)
    assert torch.allclose(reconstruction_features(subject, extractor), expected, atol=1e-6)


@pytest.mark.parametrize("what", ["reference", "samples", "reconstructions"])
def test_two_ranks_do_the_work_of_one(subject: Subject, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = {
        "reference": reference_features,
        "samples": lambda subject, extractor: sample_features(subject, extractor, "prior"),
        "reconstructions": reconstruction_features,
    }[what]
    expected = compute(subject, load_extractor(subject, "corner"))

    class Half(Subject):
        def gather(self, parts: dict[int, Tensor]) -> Tensor:
            gathered.update(parts)
            return torch.zeros(1)

    gathered: dict[int, Tensor] = {}
    for rank in range(2):
        before = len(gathered)
        half = Half(subject.model, subject.data, subject.config, Rank(rank, 2), subject.cache / str(rank), {})
        compute(half, load_extractor(half, "corner"))
        assert len(gathered) > before  # each does a share
    assert torch.equal(torch.cat([gathered[number] for number in sorted(gathered)]), expected)


def test_a_diverged_model_is_named(subject: Subject) -> None:
    subject.model.sample = lambda n, y, generator: torch.full((n, 3, 16, 16), torch.nan)
    with pytest.raises(UserError, match="not numbers: the model has diverged"):
        sample_features(subject, load_extractor(subject, "corner"), "prior")


def test_a_sampler_that_fails_is_left_out(subject: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    subject.model.codebook_size = 4  # no density can be fitted to codes
    subject.config.benchmark.samplers = ["gaussian", "prior", "gmm10"]
    extractor = load_extractor(subject, "corner")
    for _ in range(2):
        assert [sampler for sampler, _ in features.sampled(subject, extractor)] == ["prior"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and "'gaussian'" in warnings[0] and "'gmm10'" in warnings[1]
    subject.config.benchmark.samplers = ["gaussian"]
    with pytest.raises(UserError, match="not one continuous vector"):
        list(features.sampled(subject, extractor))
