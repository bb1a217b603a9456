"""Networks trained elsewhere: found where they may lie, refused where they are others, and what they make of images."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.functional import gaussian_blur

from zoo.config import DataConfig
from zoo.data import build_data
from zoo.errors import UserError
from zoo.metrics.features import EXTRACTORS
from zoo.metrics.fid import frechet_distance
from zoo.nets import pretrained
from zoo.nets.pretrained import LAYERS, MEAN, MOBILENET_VARIABLE, STD, Backbone, MobileNet, Perceptual

pytestmark = pytest.mark.usefixtures("no_network")
FILE = "mobilenet_v2-b0353104.pth"


@pytest.fixture(scope="session")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of MobileNetV2's layout."""
    torch.manual_seed(0)
    net = models.mobilenet_v2(weights=None)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    path = tmp_path_factory.mktemp("weights") / FILE
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture
def published(random_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random weights, taken for the published ones."""
    digest = hashlib.sha256(random_file.read_bytes()).hexdigest()
    monkeypatch.setattr(pretrained, "_digest_in", lambda url: digest[:8])
    return random_file


def in_cache(content: bytes) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pictures(n: int, size: int, channels: int = 3, seed: int = 0) -> Tensor:
    coarse = torch.rand(n, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def test_the_file_is_found_by_setting_environment_and_cache(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"mobilenet_v2's weights are not on this machine .*benchmark.mobilenet_weights"
    ):
        MobileNet()
    weights = published.read_bytes()
    in_cache(weights)
    MobileNet()
    monkeypatch.setenv(MOBILENET_VARIABLE, str(tmp_path / "gone.pth"))  # a name goes before the cache
    with pytest.raises(UserError, match=f"{MOBILENET_VARIABLE} names .*gone.pth, but there is no such file"):
        MobileNet()
    named = tmp_path / "named.pth"
    named.write_bytes(weights)
    assert MobileNet(mobilenet_weights=named).digest == hashlib.sha256(weights).hexdigest()[:8]
    with pytest.raises(UserError, match="benchmark.mobilenet_weights names .*none.pth"):
        MobileNet(mobilenet_weights=tmp_path / "none.pth")


def test_the_file_is_downloaded_into_torch_hubs_cache(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: str, digest: str, progress: bool) -> None:
        assert url == f"https://download.pytorch.org/models/{FILE}"
        Path(path).write_bytes(published.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    MobileNet()
    assert (Path(torch.hub.get_dir()) / "checkpoints" / FILE).is_file()


@pytest.mark.parametrize("content", [b"<html>404</html>", b""])
def test_other_weights_than_the_published_are_refused(content: bytes) -> None:
    in_cache(content)
    with pytest.raises(
        UserError, match=r"does not hold the weights of mobilenet_v2: its SHA-256 begins with"
    ) as caught:
        MobileNet()
    assert "\n" not in str(caught.value) and str(caught.value).endswith("with b0353104")


def test_features_are_those_before_the_classes(published: Path) -> None:
    images = pictures(3, 40)
    net = models.mobilenet_v2(weights=None)
    net.load_state_dict(torch.load(published))
    x = F.interpolate(images, (128, 128), mode="bilinear", antialias=True)
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = net.eval().features(x).mean((2, 3))
    extractor = MobileNet(mobilenet_weights=published)
    found = extractor(images)
    assert found.shape == (3, extractor.num_features) and expected.std() > 0.01
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    grey = images[:, :1]
    assert torch.allclose(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)), atol=1e-5)
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        extractor(images[:, :2])


@pytest.mark.parametrize(
    "name", ["resnet18", "shufflenet_v2_x0_5", "mnasnet0_5", "mobilenet_v3_small", "squeezenet1_1"]
)
def test_any_of_torchvisions_networks_is_an_extractor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXTRACTORS, "_entries", dict(EXTRACTORS._entries))
    built = models.get_model(name, weights=None)
    monkeypatch.setattr(pretrained, "published", lambda *_: (built.eval(), "0"))
    EXTRACTORS.register("mine", backbone=name, weights="IMAGENET1K_V1", size=64)(Backbone)
    entry = EXTRACTORS.lookup("mine")
    if name.startswith("squeezenet"):
        with pytest.raises(UserError, match="ends in no linear layer"):
            entry.target(**entry.defaults)
        return
    extractor = entry.target(**entry.defaults).eval()
    assert extractor(pictures(2, 32)).shape == (2, extractor.num_features)
    assert "64 px" in extractor.protocol and name in extractor.protocol


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "resnet19"}, "no network 'resnet19'. Did you mean 'resnet18'?"),
        ({"backbone": "resnet18", "weights": "MINE"}, "no weights 'MINE'. Known: IMAGENET1K_V1, DEFAULT"),
    ],
)
def test_an_unknown_network_is_a_sentence(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Backbone(**options)
    assert said.replace(", DEFAULT", "") in str(caught.value)


# ---- the perceptual distance


def test_the_perceptual_distance_is_that_of_unit_features(published: Path) -> None:
    x, y = pictures(2, 32), pictures(2, 32, seed=1)
    net = models.mobilenet_v2(weights=None).eval()
    net.load_state_dict(torch.load(published))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    kept: dict[str, Tensor] = {}
    for layer in LAYERS:
        net.get_submodule(layer).register_forward_hook(
            lambda *call, layer=layer: kept.update({layer: call[2].detach()})
        )
    maps = []
    for images in (x, y):
        net((images - mean) / std)
        maps.append(dict(kept))
    expected = torch.zeros(2)
    for layer in LAYERS:
        f, g = (m[layer] / m[layer].norm(dim=1, keepdim=True).clamp(min=1e-12) for m in maps)
        _, _, height, width = f.shape
        expected += (f - g).square().sum((1, 2, 3)) / (height * width)
    distance = Perceptual(mobilenet_weights=published)
    assert torch.allclose(distance(x, y), expected, rtol=1e-4)
    assert expected.min() > 0.01 and torch.equal(distance(x, x), torch.zeros(2))


class Holder(nn.Module):
    def __init__(self, distance: Perceptual) -> None:
        super().__init__()
        self.layer, self.distance = nn.Conv2d(3, 3, 1), distance


def test_the_network_is_no_part_of_a_model_and_passes_the_gradient_on(published: Path) -> None:
    holder = Holder(Perceptual(mobilenet_weights=published)).train()
    assert {name for name, _ in holder.named_parameters()} == {"layer.weight", "layer.bias"}
    assert len(holder.state_dict()) == 2
    assert not any(module.training for module in holder.distance.net.modules())
    assert copy.deepcopy(holder).distance is holder.distance
    before = copy.deepcopy(holder.distance.net.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        distance = holder.distance(holder.layer(pictures(2, 32)), pictures(2, 32, seed=1))
    assert distance.dtype == torch.float32
    distance.sum().backward()
    assert holder.layer.weight.grad is not None and holder.layer.weight.grad.norm() > 0
    assert all(parameter.grad is None for parameter in holder.distance.net.parameters())
    assert all(torch.equal(before[name], value) for name, value in holder.distance.net.state_dict().items())


# ---- on photographs, with the published weights


@pytest.fixture(scope="module")
def photographs(real_celeba: Path) -> Tensor:
    data = build_data(DataConfig(name="celeba", root=real_celeba, size=64))
    return data.train.batch(torch.arange(600))[0].float() / 255


@pytest.fixture
def mobilenet(mobilenet_weights: Path) -> MobileNet:
    return MobileNet(mobilenet_weights=mobilenet_weights)


def spoilt(images: Tensor, how: str, strength: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if how == "blurred":
        return gaussian_blur(images, [13, 13], [0.8 * strength])
    if how == "noisy":
        return (images + 0.05 * strength * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    if how == "down-sampled":
        small = F.interpolate(images, (64 >> strength, 64 >> strength), mode="area")
        return F.interpolate(small, (64, 64), mode="bilinear")
    kept = images[images.mean((1, 2, 3)).argsort()[: len(images) >> strength]]  # the darkest, again and again
    return kept.repeat(1 << strength, 1, 1, 1)


@pytest.mark.slow
def test_the_distance_rises_with_what_is_done_to_photographs(mobilenet: MobileNet, photographs: Tensor) -> None:
    with torch.inference_mode():
        features = mobilenet(photographs)
        real, held_out = features.chunk(2)
        floor = frechet_distance(real, held_out)
        for how in ("blurred", "noisy", "down-sampled", "with fewer faces"):
            distances = [floor]
            for strength in (1, 2, 3):
                distances.append(frechet_distance(real, mobilenet(spoilt(photographs[300:], how, strength))))
            assert distances == sorted(distances) and distances[-1] > 1.3 * floor, (how, distances)


@pytest.mark.slow
def test_the_distance_is_torch_fidelitys_on_the_same_features(mobilenet: MobileNet, photographs: Tensor) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    with torch.inference_mode():
        features = mobilenet(photographs[:400])[:, :150].double()  # fewer than images: theirs needs full rank
    first, second = features.chunk(2)
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (first, second)), verbose=False)
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
