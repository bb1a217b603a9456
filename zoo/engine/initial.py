"""The weights that a run starts from, where a paper has others than torch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.base import BaseVAE
from zoo.data import Images
from zoo.errors import UserError
from zoo.nets.convolutions import Conv2d

LEAST = 0.001  # mean grey of a pixel, and most: 0.999; as in the code of Burda et al. 2016
IMAGES_PER_CHUNK = 1000


def initialise(model: BaseVAE, kind: str) -> None:
    """Draw the weights of encoder and decoder, and of the linear maps between them, anew; biases become 0.

    Args:
        model: With an encoder and a decoder; what else it has (flows, critics) stays as it is.
        kind: "he", N(0, 2 / inputs) (He et al. 2015), or "xavier", uniform of variance 2 / (inputs + outputs) (Glorot &
            Bengio 2010).

    Raises:
        UserError: if it has none.
    """
    _decoder(model, f"init={kind}")
    for name, part in model.named_children():
        if name not in ("encoder", "decoder", "from_latent") and type(part) not in (nn.Linear, Conv2d):
            continue
        for layer in part.modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                continue
            if kind == "he":
                nn.init.kaiming_normal_(layer.weight)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def bias_from_data(model: BaseVAE, images: Images) -> None:
    """Set the bias of the decoder's last layer so that where all else is 0, the image is the training images' mean.

    Of each pixel where the layer has a bias for each, else of each channel. Burda et al. 2016, arXiv:1509.00519.

    Raises:
        UserError: if the model has no such layer, or its images are no sigmoid.
    """
    decoder = _decoder(model, "init_bias_from_data=true")
    activation = getattr(getattr(model, "likelihood", None), "activation", None)
    biases = [bias for layer in decoder.modules() if isinstance(bias := getattr(layer, "bias", None), Tensor)]
    if activation != "sigmoid" or not biases or len(biases[-1]) not in (model.image.channels, model.image.pixels):
        raise UserError(
            "init_bias_from_data needs images in [0, 1] from a sigmoid (model.out_activation=sigmoid), and a decoder "
            "that ends with a linear layer or a convolution: set init_bias_from_data=false"
        )
    bias, stored = biases[-1], images.stored
    chunks = torch.arange(len(stored)).split(IMAGES_PER_CHUNK)
    mean = torch.stack([stored.batch(positions)[0].double().sum(0) for positions in chunks]).sum(0) / len(stored) / 255
    mean = mean.flatten() if len(bias) == model.image.pixels else mean.mean((1, 2))
    bias.copy_(mean.clamp(LEAST, 1 - LEAST).logit())


def _decoder(model: BaseVAE, setting: str) -> nn.Module:
    parts = [getattr(model, name, None) for name in ("encoder", "decoder")]
    if not all(isinstance(part, nn.Module) for part in parts):
        raise UserError(f"{setting} is for a model with an encoder and a decoder, which {type(model).__name__} has not")
    return parts[1]  # type: ignore[return-value]
