"""Train the small classifier that `fd_lenet` compares images by, and write `benchmarks/lenet.safetensors`.

    DATA_ROOT=data python -m benchmarks.train_lenet

It learns 54,000 of MNIST's training images and 1,455 of scikit-learn's digits, these five times over, all shifted by up
to two pixels: two to seven minutes on two cores. The weights in the repository know 99.04 % of MNIST's 10,000 test
images and 98.89 % of 180 digits held out.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from zoo.config import DataConfig
from zoo.data import Images, build_data, to_float
from zoo.metrics.features import LENET_FILE, LeNet

COMMAND = "DATA_ROOT=data python -m benchmarks.train_lenet"
EPOCHS = 4
BATCH = 256
LR = 2e-3
SHIFT = 2  # pixels
DIGITS_REPEATED = 5  # there are few of them


def main() -> None:
    """Train, print the test accuracies, write the weights with these and the command in their metadata."""
    torch.manual_seed(0)
    mnist, digits = build_data(DataConfig(name="mnist")), build_data(DataConfig(name="digits", size=28))
    parts = [_all(mnist.train)] + DIGITS_REPEATED * [_all(digits.train)]
    images, labels = (torch.cat(column) for column in zip(*parts, strict=True))

    model = LeNet(trained=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    steps, step, start = EPOCHS * math.ceil(len(images) / BATCH), 0, time.perf_counter()
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / steps))
            logits = model.logits(model(_shifted(images[rows])))
            loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s", flush=True)

    accuracy = {data.name: _accuracy(model, data.test) for data in (mnist, digits)}
    counts = {data.name: len(data.test) for data in (mnist, digits)}
    said = ", ".join(f"{100 * share:.2f} % of {counts[name]} {name} test images" for name, share in accuracy.items())
    save_file(model.state_dict(), LENET_FILE, {"accuracy": said, "command": COMMAND})
    print(f"{said}; {LENET_FILE.stat().st_size:,} bytes in {LENET_FILE}")


def _all(split: Images) -> tuple[Tensor, Tensor]:
    pixels, labels = split.batch(torch.arange(len(split)))
    assert labels is not None
    return to_float(pixels, (0.0, 1.0)), labels


def _shifted(images: Tensor) -> Tensor:
    """Move each image of `[B, 1, 28, 28]` by up to two pixels in both directions, black flowing in."""
    side = images.shape[-1]
    windows = F.pad(images, 4 * (SHIFT,)).unfold(2, side, 1).unfold(3, side, 1)  # [B, 1, 5, 5, 28, 28]
    down, right = torch.randint(2 * SHIFT + 1, (2, len(images)))
    return windows[torch.arange(len(images)), :, down, right]


@torch.no_grad()
def _accuracy(model: LeNet, split: Images) -> float:
    images, labels = _all(split)
    return (model.logits(model(images)).argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    main()
