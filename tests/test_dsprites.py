"""dSprites' published layout, in a small file made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.config import DataConfig
from zoo.data import build_data
from zoo.data.dsprites import FACTORS, FILE
from zoo.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(size, size=200) for size in FACTORS.values()], 1)
    factors = factors[np.lexsort(factors.T[::-1])]  # in order, the shape before all that varies
    images = np.zeros((200, 64, 64), np.uint8)
    for image, (_, shape, *_rest) in zip(images, factors, strict=True):
        image[: shape + 1] = 1  # as many white rows as the shape's number, and one
    (tmp_path / "dsprites").mkdir()
    np.savez_compressed(tmp_path / "dsprites" / FILE, imgs=images, latents_classes=factors, metadata=np.array({"a": 1}))
    return tmp_path


def test_images_labels_and_factors_belong_together(root: Path) -> None:
    data = build_data(DataConfig(name="dsprites", root=root))
    assert data.train.shape == (1, 64, 64) and len(data.train) + len(data.val) + len(data.test) == 200
    assert data.factor_sizes == (1, 3, 6, 40, 32, 32)
    pixels, labels = data.train.batch(torch.arange(50))
    assert set(pixels.unique().tolist()) == {0, 255}
    assert torch.equal((pixels[:, 0, :, 0] == 255).sum(1) - 1, labels)
    assert data.train.factors is not None and torch.equal(data.train.factors[:50, 1], labels)


def test_a_limit_takes_a_mixture(root: Path) -> None:
    data = build_data(DataConfig(name="dsprites", root=root, limit=60, size=32))
    assert len(data.train) + len(data.val) + len(data.test) == 60
    assert set(data.train.labels.tolist()) == {0, 1, 2}


def test_what_is_wrong_is_one_sentence(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dSprites was not found in .*: put dsprites_ndarray"):
        build_data(DataConfig(name="dsprites", root=tmp_path / "nowhere"))
    (root / "dsprites" / FILE).write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged, or not dSprites"):
        build_data(DataConfig(name="dsprites", root=root))
