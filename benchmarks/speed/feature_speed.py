"""Times Inception features beside pytorch-fid, and a second evaluation beside the first, all in one run.

    python -m benchmarks.speed.feature_speed --images 48

Both sides see the same images with the same weights on the same cores, in turns; what is printed are medians and their
ratios. Random weights do, since speed does not depend on them. Needs pytorch-fid, which `make install` brings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from zoo.config import Config, check
from zoo.data import build_data
from zoo.metrics.core import Subject
from zoo.metrics.features import Extractor, Inception
from zoo.metrics.fid import fid
from zoo.models import create


def pytorch_fid_network() -> nn.Module:
    """Build pytorch-fid's network without its weights, which it would download."""
    import pytorch_fid.inception as other
    import torchvision

    with (
        patch.object(other, "load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(torchvision.models.Inception3, "load_state_dict", lambda *_: None),
    ):
        return other.fid_inception_v3()


def write_random_weights(path: Path) -> Path:
    """Write a file as pytorch-fid's network has it; its random weights keep activations alive through all layers."""
    torch.manual_seed(0)
    network = pytorch_fid_network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, low, high in (
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.7, 1.3),
                (module.weight, 0.8, 1.2),
                (module.bias, -0.1, 0.1),
            ):
                nn.init.uniform_(tensor, low, high)
    torch.save(network.state_dict(), path)
    return path


def in_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run each contestant once a round, and return its median time in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}


def extraction(weights: Path, folder: Path, n: int, rounds: int) -> tuple[float, float]:
    """Return images/s of this zoo and of pytorch-fid, each from decoded pixels or files as it is used."""
    import pytorch_fid.inception
    from pytorch_fid.fid_score import get_activations

    pixels = torch.randint(256, (n, 3, 64, 64), dtype=torch.uint8)
    files = []
    for number, image in enumerate(pixels):
        files.append(folder / f"{number}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(files[-1])
    with patch.object(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        theirs = pytorch_fid.inception.InceptionV3([3]).eval()
    ours = Extractor("inception", Inception(inception_weights=weights).eval(), "random")
    seconds = in_turns(
        {
            "ours": lambda: [ours(batch / 255) for batch in pixels.split(50)],
            "pytorch-fid": lambda: get_activations(files, theirs, 50, 2048, "cpu", 0),
        },
        rounds,
    )
    return n / seconds["ours"], n / seconds["pytorch-fid"]


def evaluations(weights: Path, cache: Path, n: int) -> tuple[float, float]:
    """Return the seconds of a first FID and of a second one, which finds the reference features in the cache."""
    config = check(
        Config,
        {
            "model": {"name": "mlp", "recon": "bce"},
            "data": {"name": "digits", "test_fraction": 0.3},
            "steps": 1,
            "benchmark": {"n": n, "inception_weights": str(weights)},
        },
        "feature_speed",
    )
    data = build_data(config.data)
    model = create("mlp", data.spec((0.0, 1.0)), recon="bce").eval()
    times = []
    for _ in range(2):
        subject = Subject(model, data, config, Accelerator(cpu=True), cache)
        start = time.perf_counter()
        fid(subject)
        times.append(time.perf_counter() - start)
    return times[0], times[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.feature_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=48, help="how many images (default 48)")
    parser.add_argument("--rounds", type=int, default=3, help="turns, of which the median counts (default 3)")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_random_weights(folder / "random.pth")
        ours, theirs = extraction(weights, folder, arguments.images, arguments.rounds)
        print(f"features     {ours:.2f} images/s here, {theirs:.2f} in pytorch-fid: ratio {ours / theirs:.2f}")
        first, second = evaluations(weights, folder / "cache", arguments.images)
        print(f"evaluation   {first:.1f} s the first time, {second:.1f} s the second: {second / first:.0%}")


if __name__ == "__main__":
    main()
