"""A trained model as scikit-learn has its transformers, to stand in a pipeline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from zoo.errors import UserError
from zoo.trained import Trained, load


class LatentTransformer(TransformerMixin, BaseEstimator):
    """Images to latents and back, by a model that is trained already: `fit` learns nothing.

    Images are those that a loaded model takes (see `Trained`), or flat, `[N, C H W]`, as other transformers have them.

    Args:
        run: A run, its folder, or a loaded model.
    """

    def __init__(self, run: Trained | str | Path | os.PathLike[str]) -> None:
        self.run = run

    @property
    def model(self) -> Trained:
        """The model, loaded when it is first needed."""
        if isinstance(self.run, Trained):
            return self.run
        if not hasattr(self, "_model"):
            self._model = load(self.run)
        return self._model

    def fit(self, X: Tensor | np.ndarray, y: Any = None) -> LatentTransformer:
        """See that the images are such as the model takes; remember whether they are flat."""
        images = self._images(X)
        self.model.encode(images[:1])
        self.flat_ = np.ndim(X) == 2
        self.n_features_in_ = self.model.image.pixels
        return self

    def transform(self, X: Tensor | np.ndarray) -> np.ndarray:
        """Return the posteriors' means, float32 `[N, D]`."""
        return self.model.encode(self._images(X))[0].cpu().numpy()

    def inverse_transform(self, Z: Tensor | np.ndarray) -> np.ndarray:
        """Return the images of latents `[N, D]` in [0, 1], float32 `[N, C, H, W]`, or flat if `fit` was given such."""
        images = self.model.decode(torch.as_tensor(Z)).cpu().numpy()
        return images.reshape(len(images), -1) if getattr(self, "flat_", False) else images

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the dimensions' names: z1, z2 and so on."""
        return np.array([f"z{i + 1}" for i in range(self.model.latent_dim)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _images(self, x: Tensor | np.ndarray) -> Tensor | np.ndarray:
        if np.ndim(x) != 2:
            return x
        if x.shape[1] != self.model.image.pixels:
            shape = " x ".join(map(str, self.model.image.shape))
            raise UserError(f"flat images have {x.shape[1]} numbers each, and this model takes {shape} of them")
        return x.reshape(len(x), *self.model.image.shape)


def transformer(run: Trained | str | Path | os.PathLike[str]) -> LatentTransformer:
    """Make a scikit-learn transformer of a trained model: `zoo.transformer(run).transform(images)`.

    Args:
        run: A run, its folder, or a loaded model.
    """
    return LatentTransformer(run)
