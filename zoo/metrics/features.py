"""What images are compared by: feature extractors by name, and the features of samples, reconstructions and references.

An extractor is any `nn.Module`, registered as its class or as a function that returns it:

    @register_extractor("mine")
    class Mine(nn.Module):
        num_features = 64
        protocol = "my network, 32 px"                            # what else must agree: network, resize, colours
        def forward(self, images): ...                            # [B, C, H, W] in [0, 1] -> [B, 64]

Images come as a PNG would hold them, rounded to 8 bits. A factory with one of the keywords `WEIGHT_SETTINGS` is given
the config's. Every rank works on its own batches, and all of them end up with all features. Those of reference images
are kept on the disk under a digest of the images, the weights and `protocol`: a changed network needs another
`protocol`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.data import Images, some
from zoo.errors import UserError, warn
from zoo.metrics import samplers
from zoo.metrics.core import Score, Subject
from zoo.nets.pretrained import MobileNet, find_file
from zoo.nets.vision_transformers import Clip, DinoV2
from zoo.options import signature_options
from zoo.pictures.of_models import to_unit
from zoo.registry import Registry
from zoo.weights import read_weights, weights_digest

BATCH = 50  # images generated and looked at together; fixed, since noise is seeded by batch number
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_FILES = (INCEPTION_URL.rsplit("/", 1)[1], "pt_inception-2015-12-05-6726825d.pth")  # one network, two names
INCEPTION_VARIABLE = "VAE_ZOO_INCEPTION"
# Of `benchmark`, given to extractors that take them.
WEIGHT_SETTINGS = {"inception_weights", "mobilenet_weights", "dinov2_weights", "clip_weights"}
LENET_FILE = Path(__file__).with_name("lenet.safetensors")

EXTRACTORS: Registry[Callable[..., nn.Module]] = Registry("feature extractor")
register_extractor = EXTRACTORS.register


@register_extractor("inception", "the 2015 Inception, resized as its first FID did")
@register_extractor("inception_pytorch_fid", "the 2015 Inception, resized as pytorch-fid does", resize="pytorch_fid")
class Inception(nn.Module):
    """Last pooling layer of the 2015 Inception, the network of FID. Heusel et al. 2017, arXiv:1706.08500.

    The network is torch-fidelity's, which torchmetrics uses too, with each batch norm folded into its convolution.

    Args:
        inception_weights: Its weight file, by either published name; None: found by `inception_file`.
        resize: How images get to 299 pixels, always bilinear and without antialiasing: "tensorflow" as TensorFlow 1,
            torch-fidelity and torchmetrics (`antialias=False`) do it, pixels by their corners and (x - 128) / 128;
            "pytorch_fid" as that package does it, pixels by their centres and (x - 127.5) / 127.5. At 32 pixels the two
            can differ by a hundredth of the distance.

    Raises:
        UserError: if there is no weight file, or it holds something else.
    """

    num_features = 2048

    def __init__(
        self, *, inception_weights: Path | None = None, resize: Literal["tensorflow", "pytorch_fid"] = "tensorflow"
    ) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import (
            BasicConv2d,
            FeatureExtractorInceptionV3,
        )

        path = inception_file(inception_weights)
        try:
            torch.load(path, map_location="cpu", weights_only=True)  # refuses code, which the next line would run
            net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
        except Exception as error:  # pickle, zip and torch each have their own
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{path} does not hold the weights of the 2015 Inception ({reason}): get them from {INCEPTION_URL}"
            ) from None
        for block in [module for module in net.modules() if isinstance(module, BasicConv2d)]:
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
        *layers, self.classifier = net.children()
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.resize = resize
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]  # 6726825d, as the file's name has it
        how = "as TensorFlow 1" if resize == "tensorflow" else "as pytorch-fid"
        self.protocol = f"2015 Inception, last pooling layer, resized to 299 px bilinear {how}, no antialiasing"

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 1 or 3, H, W]` in [0, 1] to `[B, 2048]`; grey images are shown in all three channels."""
        from torch_fidelity.interpolate_compat_tensorflow import (
            interpolate_bilinear_2d_like_tensorflow1x,
        )

        if images.shape[1] not in (1, 3):
            raise UserError(f"the Inception network takes images of 1 or 3 channels, not {images.shape[1]}")
        x = 255 * images.expand(-1, 3, -1, -1)
        if self.resize == "tensorflow":
            x = (interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False) - 128) / 128
        else:
            x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) / 127.5 - 1
        return self.layers(x.contiguous(memory_format=torch.channels_last)).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        """Class scores without their bias, as the Inception Score takes them: `[B, 2048]` -> `[B, 1008]`."""
        return features @ cast(nn.Linear, self.classifier).weight.T


def inception_file(configured: Path | None) -> Path:
    """Find the 2015 Inception's weights: config, environment, torch hub's cache, download; in this order.

    Raises:
        UserError: if a file that was named is not there, or there is none and it can't be downloaded.
    """
    variable = os.environ.get(INCEPTION_VARIABLE)
    places = {"--inception-weights": None, "benchmark.inception_weights": configured, INCEPTION_VARIABLE: variable}
    return find_file("the 2015 Inception", INCEPTION_URL, INCEPTION_FILES, places)


register_extractor("mobilenet", "MobileNetV2 as trained on ImageNet, for photographs")(MobileNet)
register_extractor("dinov2", "DINOv2 ViT-L/14, for photographs")(DinoV2)
register_extractor("clip", "CLIP ViT-L/14, for photographs")(Clip)


@register_extractor("lenet", "a small classifier of digits, in this repository")
class LeNet(nn.Module):
    """Penultimate layer of a small classifier of handwritten digits, after LeCun et al. 1998.

    Its weights come with the zoo: see `benchmarks/train_lenet.py` for its accuracy and the command that remakes them.

    Args:
        trained: Whether to load them.
    """

    num_features = 128
    protocol = "LeNet of this repository, penultimate layer, grey, resized to 28 px bilinear with antialiasing"

    def __init__(self, *, trained: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 5 * 5, self.num_features), nn.ReLU()),
        )
        self.classifier = nn.Linear(self.num_features, 10)
        if trained:
            self.load_state_dict(load_file(LENET_FILE))

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 1 or 3, H, W]` in [0, 1] to `[B, 128]`; colours are weighed as in ITU-R BT.601."""
        if images.shape[1] not in (1, 3):
            raise UserError(f"the extractor 'lenet' takes images of 1 or 3 channels, not {images.shape[1]}")
        if images.shape[1] == 3:
            images = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        if images.shape[2:] != (28, 28):
            images = F.interpolate(images, (28, 28), mode="bilinear", antialias=True)
        return self.layers(images)

    def logits(self, features: Tensor) -> Tensor:
        """Class scores: `[B, 128]` -> `[B, 10]`."""
        return self.classifier(features)


@dataclass(frozen=True)
class Extractor:
    """An extractor at work.

    Attributes:
        name: As registered.
        module: In evaluation mode, on the model's device.
        digest: Of its weights: those of its attribute `digest`, if it has one.
    """

    name: str
    module: nn.Module
    digest: str

    @property
    def protocol(self) -> str:
        """What two numbers must share: network, resize, weights, pixels."""
        how = getattr(self.module, "protocol", f"extractor {self.name!r}")
        return f"{how}, weights {self.digest}, pixels rounded to 8 bits"

    def row(self, inception: str, other: str, sampler: str = "prior") -> str:
        """Name a result: `fid`, `fd_lenet`, `fid@gmm10`; only the 2015 Inception gives what the literature names."""
        name = inception if isinstance(self.module, Inception) else f"{other}_{self.name}"
        return name if sampler == "prior" else f"{name}@{sampler}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Map `[B, C, H, W]`, clamped to [0, 1] and rounded to 8 bits, to features `[B, F]`."""
        return self.module(images.clamp(0, 1).mul(255).round().div(255)).float()


def load_extractor(subject: Subject, name: str) -> Extractor:
    """Build the extractor called `name` and put it beside the model.

    Raises:
        UserError: if there is none of this name, or its weights are missing or wrong.
    """

    def build() -> Extractor:
        entry = EXTRACTORS.lookup(name)
        options = dict(entry.defaults)
        for setting in WEIGHT_SETTINGS & signature_options(entry.target).keys():
            options[setting] = getattr(subject.config.benchmark, setting)
        module = entry.target(**options).eval().requires_grad_(False).to(subject.model.device)
        return Extractor(name, module, getattr(module, "digest", None) or _digest(module))

    return samplers.once(subject, f"extractor {name}", build)


def reference_features(subject: Subject, extractor: Extractor, split: Literal["test", "train"] = "test") -> Tensor:
    """Return features of `benchmark.n` test images, or of all training images, kept in `subject.cache`; a collective.

    The file is found by a digest of the images' pixels and of the extractor: another split, size, number, resize or
    weight file is another reference.

    Returns:
        float32 `[N, F]`, on the CPU.
    """

    def compute() -> Tensor:
        data = subject.data
        images = some(data.test, subject.config.benchmark.n) if split == "test" else data.train
        channels, height, width = images.shape
        digest = hashlib.blake2b(f"{extractor.name} {extractor.protocol} {images.shape}".encode(), digest_size=8)
        for positions in torch.arange(len(images)).split(1000):
            digest.update(images.batch(positions)[0].contiguous().numpy().tobytes())
        what = f"{subject.data.name}_{split}_{channels}x{height}x{width}_n{len(images)}_{extractor.name}"
        path = subject.cache / (re.sub(r"[^\w.-]", "-", what) + f"_{digest.hexdigest()}.safetensors")
        cached = _read(path, len(images))
        if all(gather_object([cached is not None])):
            return cast(Tensor, cached)
        features = _gather(subject, extractor, _as_they_are(subject, images))
        if subject.accelerator.is_main_process:
            subject.cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            content = {"features": features.contiguous()}
            save_file(content, partial, {"protocol": extractor.protocol, "digest": weights_digest(content)})
            os.replace(partial, path)
        return features

    return samplers.once(subject, f"{split} features {extractor.name}", compute)


def sample_features(subject: Subject, extractor: Extractor, sampler: str) -> Tensor:
    """Return the features of `benchmark.n` samples, float32 `[N, F]` on the CPU; a collective."""

    def compute() -> Tensor:
        return _gather(subject, extractor, samplers.sample_batches(subject, sampler, subject.config.benchmark.n, BATCH))

    return samplers.once(subject, f"sample features {sampler} {extractor.name}", compute)


def reconstruction_features(subject: Subject, extractor: Extractor) -> Tensor:
    """Return the features of `benchmark.n` test images' reconstructions, `[N, F]` on the CPU; a collective.

    They are those of `reference_features`, each decoded from its posterior mean.
    """

    def compute() -> Tensor:
        split = some(subject.data.test, subject.config.benchmark.n)
        model = subject.model
        images = (
            (number, to_unit(model.reconstruct(batch.x, batch.y), model.image.range))
            for number, batch in subject.batches(split, BATCH)
        )
        return _gather(subject, extractor, images)

    return samplers.once(subject, f"reconstruction features {extractor.name}", compute)


def sampled(subject: Subject, extractor: Extractor) -> Iterator[tuple[str, Tensor]]:
    """Yield each sampler's name and its samples' features; a collective.

    A sampler that can't serve this model is named in a warning and left out.

    Raises:
        UserError: if none can.
    """
    failed: list[UserError] = []
    for sampler in subject.config.benchmark.samplers:
        try:
            features = sample_features(subject, extractor, sampler)
        except UserError as error:
            failed.append(error)
            if f"warned {sampler}" not in subject.memo:
                subject.memo[f"warned {sampler}"] = error
                warn(f"without samples from {sampler!r}: {error}")
        else:
            yield sampler, features
    if len(failed) == len(subject.config.benchmark.samplers):
        raise failed[0] if failed else UserError("benchmark.samplers is empty: name one, such as prior")


def sample_score(
    subject: Subject, extractor: Extractor, sampler: str, value: float, how: str, higher_is_better: bool
) -> Score:
    """Write down a number that compares samples with the reference images, and how it came about.

    Args:
        subject: Of whom it is said.
        extractor: What images were compared by.
        sampler: Where the samples came from.
        value: The number.
        how: What the metric adds to the protocol.
        higher_is_better: Which way is up.
    """
    n = subject.config.benchmark.n
    about = samplers.SAMPLERS.lookup(sampler).about
    drawn = f"{n} samples from {sampler} ({about}) against {compared(subject)}"
    protocol = f"{how}; {extractor.protocol}; {drawn}"
    return Score(value, "", higher_is_better, protocol, n, "test", sampler)


def compared(subject: Subject) -> str:
    """Say which test images features are compared with."""
    n, there = subject.config.benchmark.n, len(subject.data.test)
    return f"the first {there} test images" if there <= n else f"{n} of {there} test images, drawn by a fixed seed"


def _as_they_are(subject: Subject, split: Images) -> Iterator[tuple[int, Tensor]]:
    for number, batch in subject.batches(split, BATCH):
        yield number, to_unit(batch.x, subject.model.image.range)


@torch.no_grad()
def _gather(subject: Subject, extractor: Extractor, images: Iterable[tuple[int, Tensor]]) -> Tensor:
    features = subject.gather({number: extractor(batch) for number, batch in images})
    if not features.isfinite().all():
        raise UserError(f"some images or their features ({extractor.name}) are not numbers: the model has diverged")
    return features


def _digest(module: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=4)
    for tensor in module.state_dict().values():
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, count: int) -> Tensor | None:
    """Return features that are kept, or None where they are to be made anew: not there yet, damaged, or from before."""
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {})["digest"]
        features = read_weights(path, digest)["features"]
    except (OSError, SafetensorError, KeyError, UserError):
        return None
    return features if features.ndim == 2 and len(features) == count and features.dtype == torch.float32 else None
