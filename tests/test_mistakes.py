"""What a plugin's author gets wrong: one sentence that names class and method, before a step is taken."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import zoo
from tests.runs import rows, settings, small
from zoo.base import VARIANTS, BaseVAE, Batch, ImageSpec
from zoo.commands import main
from zoo.data import DATASETS
from zoo.engine import log, train
from zoo.engine.rehearsal import rehearse
from zoo.errors import PluginError, UserError
from zoo.metrics.core import METRICS
from zoo.metrics.samplers import SAMPLERS
from zoo.nets.pairs import NETS
from zoo.records import read_results
from zoo.testing import StubVAE, check_variant

CPU = torch.device("cpu")
HEAD = """
import numpy as np
import torch, zoo
from torch import nn
from zoo import BaseVAE, GaussianVAE, VAEOutput, register, register_dataset
from zoo import register_metric, register_net, register_sampler
from zoo.data import Images, Source
from zoo.metrics.core import Score
from zoo.nets.pairs import Net
"""


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for registry in (VARIANTS, NETS, DATASETS, METRICS, SAMPLERS):
        list(registry)  # imports the built-in ones
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        if module.startswith("vae_zoo_plugin"):
            del sys.modules[module]


@pytest.fixture
def attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Train with a plugin of this text; return exit code, output and errors."""
    monkeypatch.setattr(log, "SECONDS_BETWEEN_PICTURES", 1e9)

    def call(text: str, *overrides: str, **changes: Any) -> tuple[int, str, str]:
        AcceleratorState._reset_state(reset_partial_state=True)
        plugin, config = tmp_path / "mine.py", tmp_path / "c.yaml"
        plugin.write_text(HEAD + text)
        values = settings(tmp_path / "r", steps=2, plugins=[str(plugin)], **changes)
        config.write_text(yaml.safe_dump(values))
        code = main(["--config", str(config), *overrides])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def variant(body: str, parent: str = "GaussianVAE", decorator: str = '@register("mine")') -> str:
    """The text of a plugin whose class `Mine` has this body."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    return f"\n{decorator}\nclass Mine({parent}):\n{lines}"


def returning(expression: str) -> str:
    """A variant whose loss returns this."""
    return variant(f"def loss(self, batch):\n    terms = super().loss(batch)\n    return {expression}")


CRITIC = """
players = ("vae", "critic")
def __init__(self, image, **options):
    super().__init__(image, **options)
    self.critic = {critic}
def critic_loss(self, batch):
    return {{"loss": {loss}}}
"""
FUNCTION = '\n@register_{kind}("mine")\ndef mine({parameters}):\n    {body}\n'

# name: plugin, words of the sentence
MODELS: dict[str, tuple[str, str]] = {
    "no decode": (
        variant("def encode(self, x, y=None): ...\ndef forward(self, x, y=None): ...", "BaseVAE"),
        r"model 'mine' lacks decode, loss and sample, which Mine \(.*mine.py\) must define",
    ),
    "no posterior": (
        variant("pass", "zoo.families.latent.LatentVAE"),
        "model 'mine' lacks posterior, which Mine",
    ),
    "loss returns a tensor": (returning("terms['loss']"), "Mine.loss returns a tensor; it must return a dict"),
    "loss returns nothing": (returning("None"), "Mine.loss returns None; it must return a dict of named terms"),
    "loss returns a tuple": (returning("(terms['loss'], terms)"), "Mine.loss returns a tuple; it must return a dict"),
    "no term loss": (returning("{'total': terms['loss']}"), r"Mine.loss returns \['total'\], without the term 'loss'"),
    "loss per image": (
        returning("{'loss': batch.x.flatten(1).sum(1) * terms['loss']}"),
        r"the term 'loss' of Mine.loss has shape \[32\]; it must be a scalar",
    ),
    "loss is a float": (
        returning("{'loss': terms['loss'].item()}"),
        "the term 'loss' of Mine.loss is a float, not a tensor",
    ),
    "a term is a float": (
        returning("terms | {'beta': 4.0}"),
        r"the term 'beta' of Mine.loss is a float, not a tensor: write batch.x.new_tensor\(beta\)",
    ),
    "a term that logs would overwrite": (
        returning("terms | {'epoch_loss': terms['loss']}"),
        "the term 'epoch_loss' of Mine.loss can't have this name",
    ),
    "a term is a dict": (
        returning("terms | {'parts': {}}"),
        r"the term 'parts' of Mine.loss is a dict, not a tensor \(",
    ),
    "plays returns nothing": (
        variant("def plays(self, player, step): pass"),
        "Mine.plays returns None; it must return True or False",
    ),
    "a player twice": (variant('players = ("vae", "vae")'), r"Mine.players names a player twice: \('vae', 'vae'\)"),
    "another optimizer's setting": (
        variant('optimizers = {"vae": {"learning_rate": 1e-4}}'),
        r"Mine.optimizers\['vae'\]: learning_rate: .* Known: name, lr",
    ),
    "an optimizer of nobody": (
        variant('optimizers = {"critic": {"lr": 1e-4}}'),
        "Mine.optimizers has settings of 'critic', which is no player of it",
    ),
    "settled is a text": (variant('settled = ("beta")'), r"Mine.settled is 'beta', not a tuple: write \('beta',\)"),
    "settled is unknown": (
        variant('settled = ("betta",)'),
        r"Mine.settled names 'betta', which is no option of it \(.*mine.py\). Did you mean 'beta'",
    ),
    "batch_terms is a text": (
        variant('batch_terms = ("loss")'),
        r"Mine.batch_terms is 'loss', not a tuple: write \('loss',\)",
    ),
    "not_exported names no part": (
        variant('not_exported = {"prior": "it is drawn step by step"}'),
        r"Mine.not_exported is .*: name which of encoder, decoder, sampler, and why",
    ),
    "an unknown annotation": (
        variant("def __init__(self, image, *, gamma: 'Positive' = 1.0, **o):\n    super().__init__(image, **o)"),
        r"an annotation of Mine.__init__ names 'Positive', which is not known there",
    ),
    "another image": (
        variant("def __init__(self, image, **o):\n    super().__init__(image, **o)\n    self.image = None"),
        r"Mine.__init__ \(.*mine.py:13\) sets self.image, which must stay what it was given",
    ),
    "exit in a plugin": ("\nexit(5)\n", r"somebody's code ended the program by exit\(5\) \(.*mine.py:11\)"),
    "exit in a loss": (
        variant("def loss(self, batch):\n    exit('bye')"),
        r"somebody's code ended the program by exit\('bye'\) \(.*mine.py:14\)",
    ),
    "loss is detached": (
        returning("{'loss': terms['loss'].detach()}"),
        "the term 'loss' of Mine.loss has no gradient to what player 'vae' owns",
    ),
    "loss is not a number": (
        returning("terms | {'loss': terms['loss'] * torch.nan}"),
        "the term 'loss' of Mine.loss is nan at the first step",
    ),
    "loss raises": (
        returning("terms | {'loss': terms['loss'] + 'kl'}"),
        r"Mine.loss raised TypeError: unsupported operand .* \(.*mine.py:15, in loss\)",
    ),
    "a method that loss calls raises": (
        variant(
            "def decode(self, z, y=None):\n    return self.logits(z) @ z\ndef loss(self, batch):\n"
            "    return super().loss(batch) | {'x': self.decode(self(batch.x).z).mean()}"
        ),
        r"Mine.loss raised RuntimeError: .* \(.*mine.py:14, in decode\)",
    ),
    "loss of an attribute that is not there": (
        returning("{'loss': self.gamma * terms['loss']}"),
        r"Mine.loss raised AttributeError: 'Mine' object has no attribute 'gamma' \(.*mine.py:15, in loss\)",
    ),
    "loss takes no batch": (
        variant("def loss(self): ..."),
        r"Mine.loss raised TypeError: Mine.loss\(\) takes 1 positional argument but 2 were given \(.*mine.py:13\)",
    ),
    "gradient raises": (
        variant(
            "def loss(self, batch):\n    mu = self.encode(batch.x)[0]\n    e = mu.exp()\n    e.add_(1)\n"
            "    return {'loss': e.mean() + (mu.exp() * e).mean() + e.sqrt().mul_(2).sum()}"
        ),
        "the gradient of Mine.loss raised RuntimeError: one of the variables needed for gradient computation",
    ),
    "loss in evaluation only": (
        variant("def loss(self, batch):\n    return super().loss(batch) if self.training else self.absent"),
        r"Mine.loss raised AttributeError: .*'absent' \(.*mine.py:14, in loss\)",
    ),
    "no critic_loss": (
        variant(CRITIC.format(critic="nn.Linear(3, 1)", loss="0").replace("critic_loss", "critics_loss")),
        r"Mine has the player 'critic', but no method critic_loss\(batch\)",
    ),
    "critic_loss is a number": (
        variant(CRITIC.format(critic="nn.Linear(3, 1)", loss="0.5")),
        "the term 'loss' of Mine.critic_loss is a float, not a tensor",
    ),
    "critic_loss misses the critic": (
        variant(CRITIC.format(critic="nn.Linear(3, 1)", loss="self(batch.x).recon.mean()")),
        "the term 'loss' of Mine.critic_loss has no gradient to what player 'critic' owns",
    ),
    "a player that owns nothing": (
        variant(CRITIC.format(critic="nn.ReLU()", loss="self(batch.x).recon.mean()")),
        "the player 'critic' of Mine owns no parameters to train",
    ),
    "a player that is not there": (
        variant(CRITIC.format(critic="None", loss="0")),
        "Mine has the player 'critic', which trains the module self.critic, but that is not set",
    ),
    "a player that is no module": (
        variant(CRITIC.format(critic="[nn.Linear(3, 1)]", loss="0")),
        "trains the module self.critic, but that is a list: set it in Mine.__init__",
    ),
    "players is a string": (
        variant('players = ("vae")'),
        r"Mine.players is 'vae', not a tuple such as \('vae', 'critic'\)",
    ),
    "players without vae": (variant('players = ("critic",)'), r"Mine.players is \('critic',\), not a tuple such as"),
    "register without parentheses": (
        variant("pass", decorator="@register"),
        r"""@register has no name for Mine \(.*mine.py\): write @register\('mine'\) above it""",
    ),
    "register something else": (
        "\n@register('mine')\nclass Mine(nn.Module): ...\n",
        r"@register\('mine'\) is for subclasses of zoo.BaseVAE",
    ),
    "a positional option": (
        variant("def __init__(self, image, width=3, **options):\n    super().__init__(image, **options)"),
        r"Mine.__init__ \(.*mine.py:13\) takes the option 'width' by position, .* write `\*` before it, "
        r"as in \(image, \*, width=3\)",
    ),
    "no image": (
        variant("def __init__(self, **options):\n    super().__init__(None)"),
        r"Mine.__init__ \(.*\) takes \(\*\*options\), but a variant is called with \(image\)",
    ),
    "a default for no option": (
        variant("pass", decorator='@register("mine", latent_dims=3)'),
        r"@register\('mine'\) gives a default to 'latent_dims', which Mine \(.*\) does not have. "
        "Did you mean 'latent_dim'",
    ),
    "no super": (
        variant("def __init__(self, image, **options):\n    self.more = nn.Linear(2, 2)"),
        r"Mine.__init__ \(.*mine.py:13\) does not call super\(\).__init__\(image, \*\*options\)",
    ),
    "no super, and no module": (
        variant("def __init__(self, image, **options):\n    self.gamma = 3"),
        r"Mine.__init__ \(.*mine.py:13\) does not call super",
    ),
    "super too late": (
        variant(
            "def __init__(self, image, **options):\n    print(self.encoder)\n    super().__init__(image, **options)"
        ),
        "Mine.__init__ .* does not call super.* which must come before all else",
    ),
    "__init__ raises": (
        variant("def __init__(self, image, **options):\n    super().__init__(image, **options)\n    image.colours"),
        r"Mine.__init__ raised AttributeError: .* no attribute 'colours' \(.*mine.py:15, in __init__\)",
    ),
    "encode returns one tensor": (
        variant(
            "def encode(self, x, y=None):\n    return super().encode(x)[0]\ndef forward(self, x, y=None, **more):\n"
            "    z = self.encode(x)\n    return VAEOutput(self.decode(z), z, z, z, self.logits(z))"
        ),
        "Mine.encode returns a tensor, not a pair, mu and logvar",
    ),
    "forward returns a tensor": (
        variant(
            "def forward(self, x, y=None, **more):\n    return x\n"
            "def loss(self, batch):\n    return {'loss': self.encode(batch.x)[0].square().mean()}"
        ),
        "Mine.forward returns a tensor, not a zoo.VAEOutput",
    ),
    "decode returns flat images": (
        variant("def decode(self, z, y=None):\n    return super().decode(z).flatten(1)"),
        r"what Mine.decode returns has shape \[2, 64\], not \[2, 1, 8, 8\]",
    ),
    "sample returns one image": (
        variant("def sample(self, n, y=None, generator=None):\n    return super().sample(n, y, generator)[0]"),
        r"what Mine.sample returns has shape \[1, 8, 8\], not \[2, 1, 8, 8\]",
    ),
    "sample takes no generator": (
        variant("def sample(self, n):\n    return super().sample(n)"),
        r"Mine.sample raised TypeError: .* takes 2 positional arguments but 4 were given \(.*mine.py:13\)",
    ),
    "a plugin that is no Python": ("\nclass Mine(\n", r"plugin '.*mine.py' raised SyntaxError: .* \(.*mine.py:11\)"),
    "a plugin that raises": (
        "\nimport no_such_module_anywhere\n",
        r"plugin '.*mine.py' raised ModuleNotFoundError: .*anywhere' \(.*mine.py:11\)",
    ),
}


def sentence(code: int, error: str, wanted: int = 2) -> str:
    """The one line of standard error."""
    assert code == wanted, error
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error.removeprefix("error: ").strip()


def never(*_: object) -> None:
    raise AssertionError("a step was taken")


@pytest.mark.parametrize("case", MODELS)
def test_a_variants_mistake_is_one_sentence(
    case: str, attempt: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.Trainer, "take_step", never)
    text, words = MODELS[case]
    code, _, error = attempt(text, "model.name=mine")
    assert re.search(words, sentence(code, error)), error
    assert not (tmp_path / "r").exists()


GOOD_NET = "Net(nn.Flatten(), nn.Unflatten(1, image.shape), (image.pixels,))"
NETS_WRONG: dict[str, tuple[str, str]] = {
    "a tuple": (
        "return nn.Flatten(), nn.Identity()",
        "net 'mine': mine returned a tuple; it must return zoo.nets.pairs.Net",
    ),
    "a shape that is a number": (
        "return Net(nn.Flatten(), nn.Unflatten(1, image.shape), image.pixels)",
        r"mine returned a Net whose feature_shape is 64; it must be \(F,\) or \(F, h, w\)",
    ),
    "an encoder that is a function": (
        "return Net(lambda x: x.flatten(1), nn.Unflatten(1, image.shape), (image.pixels,))",
        "mine returned a Net whose encoder is a function; it must be a torch.nn.Module",
    ),
    "an encoder of another shape": (
        "return Net(nn.Identity(), nn.Unflatten(1, image.shape), (image.pixels,))",
        r"mine: its encoder turns \[2, 1, 8, 8\] into \[2, 1, 8, 8\]; it must be \[2, 64\]",
    ),
    "a decoder of another shape": (
        "return Net(nn.Flatten(), nn.Identity(), (image.pixels,))",
        r"mine: its decoder turns \[2, 64\] into \[2, 64\]; it must be \[2, 1, 8, 8\]",
    ),
    "a decoder that raises": (
        "return Net(nn.Flatten(), nn.Linear(3, 3), (image.pixels,))",
        r"mine: its decoder, given \[2, 64\], raised RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "raises": (
        "return image.pixels / 0",
        r"net 'mine': mine raised ZeroDivisionError: .* \(.*mine.py:13, in mine\)",
    ),
}


@pytest.mark.parametrize("case", NETS_WRONG)
def test_a_nets_mistake_is_one_sentence(
    case: str, attempt: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    body, words = NETS_WRONG[case]
    text = FUNCTION.format(kind="net", parameters="image, in_channels", body=body)
    code, _, error = attempt(text, model={"name": "mlp", "net": "mine"})
    assert re.search(words, sentence(code, error)), error
    assert not (tmp_path / "r").exists()


def test_a_good_net_trains(attempt: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    text = FUNCTION.format(kind="net", parameters="image, in_channels", body=f"return {GOOD_NET}")
    code, _, error = attempt(text, model={"name": "mlp", "net": "mine"})
    assert code == 0 and (tmp_path / "r" / "model.safetensors").is_file(), error


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("net", "image", r"mine \(.*mine.py:11\) takes \(image\), but a net is called with \(image, in_channels\)"),
        ("net", "image, in_channels, width=3", "takes the option 'width' by position"),
        ("dataset", "root", r"but a data set is called with \(root, size, limit\)"),
        ("dataset", "root, size, limit, channels=1", r"as in \(root, size, limit, \*, channels=1\)"),
        ("metric", "subject, k=3", "takes the option 'k' by position"),
        ("sampler", "", r"takes \(\), but a sampler is called with \(subject\)"),
    ],
)
def test_a_functions_parameters(
    kind: str, parameters: str, words: str, attempt: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, error = attempt(FUNCTION.format(kind=kind, parameters=parameters, body="..."))
    assert re.search(words, sentence(code, error)), error


@pytest.mark.parametrize("kind", ["net", "dataset", "metric", "sampler"])
def test_register_without_parentheses(kind: str, attempt: Callable[..., tuple[int, str, str]]) -> None:
    code, _, error = attempt(FUNCTION.format(kind=kind, parameters="*_", body="...").replace('("mine")', ""))
    words = rf"@register_{kind} has no name for mine \(.*mine.py:11\): write @register_{kind}\('mine'\) above it"
    assert re.search(words, sentence(code, error)), error


PIXELS = "torch.zeros(40, 3, 16, 16, dtype=torch.uint8)"
DATA_WRONG: dict[str, tuple[str, str]] = {
    "a tensor": (
        f"return {PIXELS}",
        r"mine returned a tensor, uint8 \[40, 3, 16, 16\], and must return a Source: write Source\(train=Images",
    ),
    "a torch Dataset": (
        f"return torch.utils.data.TensorDataset({PIXELS})",
        r"mine returned a torch Dataset \(TensorDataset\), and must return a Source: stack its images",
    ),
    "a NumPy array": (
        f"return {PIXELS}.numpy()",
        r"mine returned a NumPy array, uint8 \[40, .*: write Source\(train=Images\(torch.from_numpy\(pixels\)\)\)",
    ),
    "images": (f"return Images({PIXELS})", r"mine returned an Images, .* return Source\(train=images\)"),
    "nothing": ("pass", "mine returned a NoneType, and must return a Source"),
    "a source of a tensor": (
        f"return Source(train={PIXELS})",
        r"Source\(train=…\) is a tensor, uint8 .*, and must be Images: write Source\(train=Images\(pixels\)\)",
    ),
    "images of a NumPy array": (
        f"return Source(train=Images({PIXELS}.numpy()))",
        r"pixels are a NumPy array, uint8 \[40, .*, and must be a tensor: write Images\(torch.from_numpy\(pixels\)\)",
    ),
    "images of a list": ("return Source(train=Images([1, 2]))", "pixels are a list, and must be a tensor"),
    "channels last": (
        f"return Source(train=Images({PIXELS}.permute(0, 2, 3, 1)))",
        r"pixels are \[40, 16, 16, 3\], with the colours last, .* write pixels.permute\(0, 3, 1, 2\)",
    ),
    "floats": (
        f"return Source(train=Images({PIXELS} / 255))",
        r"must be uint8 \[N, C, H, W\], not float32 \[40, 3, 16, 16\]: .* pixels.mul\(255\).round\(\).byte\(\)",
    ),
    "no channels": (
        f"return Source(train=Images({PIXELS}[:, 0]))",
        r"must be uint8 \[N, C, H, W\], not uint8 \[40, 16, 16\]: of grey images, write pixels.unsqueeze\(1\)",
    ),
    "labels of NumPy": (
        f"return Source(train=Images({PIXELS}, np.zeros(40)))",
        r"labels must be a tensor, not a NumPy array, float64 \[40\]: write torch.from_numpy\(labels\)",
    ),
    "labels that are floats": (
        f"return Source(train=Images({PIXELS}, torch.zeros(40)))",
        r"labels are a tensor, float32 \[40\]: classes must be int64 \[N\]",
    ),
    "labels without names": (
        f"return Source(Images({PIXELS}, torch.arange(40)), class_names=('a', 'b'))",
        "Source has 2 class names, the first for label 0, but train has the label 39",
    ),
    "a label below 0": (
        f"return Source(Images({PIXELS}, torch.arange(40) % 3 - 1), class_names=('a', 'b', 'c'))",
        "Source has 3 class names, the first for label 0, but train has the label -1",
    ),
    "a test split without labels": (
        f"return Source(Images({PIXELS}, torch.zeros(40).long()), Images({PIXELS}), class_names=('a',))",
        "Source's test images have no labels, and its train images labels",
    ),
    "a test split of another size": (
        f"return Source(Images({PIXELS}), Images({PIXELS}[..., 1:]))",
        "Source's test images are 3 x 16 x 15, and its train images 3 x 16 x 16",
    ),
    "names without labels": (
        f"return Source(Images({PIXELS}), class_names=('a',))",
        "Source has class_names or attribute_names, but its images have no labels",
    ),
    "names in one text": (
        f"return Source(Images({PIXELS}, torch.zeros(40).long()), class_names='abc')",
        "Source's class_names or attribute_names is one text, 'abc', not a tuple of names",
    ),
    "raises": ("return open('/nowhere')", r"mine raised FileNotFoundError: .* \(.*mine.py:13, in mine\)"),
}


@pytest.mark.parametrize("case", DATA_WRONG)
def test_a_data_sets_mistake_is_one_sentence(
    case: str, attempt: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    body, words = DATA_WRONG[case]
    text = FUNCTION.format(kind="dataset", parameters="root, size, limit", body=body)
    code, _, error = attempt(text, data={"name": "mine"})
    said = sentence(code, error)
    assert said.startswith("data set 'mine'") and re.search(words, said), error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("shape", [(3, 32, 3), (4, 4, 4), (1, 28, 28), (2, 9, 1), (7, 1, 1), (8, 2, 2), (3, 3, 3)])
def test_small_images_are_not_taken_for_channels_last(shape: tuple[int, int, int]) -> None:
    assert zoo.data.Images(torch.zeros(5, *shape, dtype=torch.uint8)).shape == shape


METRIC = "\n@register_metric('mine')\ndef mine(subject):\n    {}\n"
SAMPLER = "\n@register_sampler('mine')\ndef mine(subject):\n    {}\n"
SCORES_WRONG: dict[str, tuple[str, str]] = {
    "a float": (
        METRIC.format("return 3.0"),
        r"no mine: mine returned a float, not a dict; .* named scores, as \{\"mine\": Score\(.* \(.*mine.py:11\)",
    ),
    "a dict of floats": (METRIC.format("return {'mine': 3.0}"), "no mine: mine returned a dict with a float in it"),
    "a score of a text": (
        METRIC.format("return {'mine': Score('3', '', True, '', 'all')}"),
        "no mine: mine returned a dict with a Score whose value or n is no number, but '3' and 'all'",
    ),
    "a score in the wrong order": (
        METRIC.format("return {'mine': Score(3.0, True, '', 'p', 1)}"),
        "no mine: mine returned a dict with a Score whose unit is True, not a text",
    ),
    "a score that is no number": (
        METRIC.format("return {'mine': Score(float('nan'), '', True, 'p', 1)}"),
        "no mine: mine returned a dict with a Score whose value is nan",
    ),
    "no scores": (METRIC.format("return {}"), "no mine: mine returned an empty dict; it must return named scores"),
    "another metric's row": (
        METRIC.format("return {'psnr': Score(3.0, '', True, 'p', 1)}"),
        "no mine: mine returned the row 'psnr', which another metric has written already",
    ),
    "a sampler of bytes": (
        SAMPLER.format("return lambda n, y, generator: torch.zeros(n, 1, 8, 8).byte()"),
        "no prdc_lenet: sampler 'mine': what mine returned draws images of uint8, not of float32",
    ),
    "a sampler out of range": (
        SAMPLER.format("return lambda n, y, generator: 255 * torch.ones(n, 1, 8, 8)"),
        r"sampler 'mine': what mine returned draws images from 255 to 255, and the model's lie in \[0, 1\]",
    ),
    "raises": (METRIC.format("1 / 0"), r"no mine: mine raised ZeroDivisionError: .* \(.*mine.py:13, in mine\)"),
    "a sampler that returns a float": (
        SAMPLER.format("return 3.0"),
        r"no prdc_lenet: sampler 'mine': mine returned a float; it must return a function draw\(n, y, generator\)",
    ),
    "a sampler that raises": (
        SAMPLER.format("return subject.sigma"),
        r"no prdc_lenet: sampler 'mine': mine raised AttributeError: .* \(.*mine.py:13, in mine\)",
    ),
    "a sampler that draws a float": (
        SAMPLER.format("return lambda n, y, generator: 3.0"),
        r"sampler 'mine': what mine returned draws images of type float, not \[\d+, 1, 8, 8\]",
    ),
    "a sampler that can't draw": (
        SAMPLER.format("return lambda n: None"),
        r"no prdc_lenet: what sampler 'mine' returned raised TypeError: ",
    ),
}


@pytest.mark.parametrize("case", SCORES_WRONG)
def test_a_metrics_mistake_costs_nothing_but_the_metric(
    case: str, attempt: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    text, words = SCORES_WRONG[case]
    sampled = "sampler" in case
    wanted = "prdc_lenet" if sampled else "mine"
    scores = {"metrics": [wanted, "mse"], "samplers": ["mine"] if sampled else ["prior"], "n": 20}
    code, _, error = attempt(text, benchmark=scores)
    assert code == 1 and "Traceback" not in error, error
    *warnings, last = error.splitlines()
    assert len(warnings) == 1 + sampled and re.search(words, warnings[-1]), error
    lacks = f"{wanted}, samples from 'mine'" if sampled else wanted
    assert last.startswith(f"error: no {lacks}, for the reason above; all else is in {tmp_path / 'r'}")
    for file in ("model.safetensors", "results.json", "generated_samples.png", "metrics.jsonl"):
        assert (tmp_path / "r" / file).is_file()
    metrics = read_results(tmp_path / "r")["metrics"]
    assert {"loss", "psnr", "mse"} <= set(metrics) and "mine" not in metrics
    assert rows(tmp_path / "r")[-1]["step"] == 2


def test_a_metric_may_return_numbers_of_numpy_and_torch(
    attempt: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    scores = (
        "return {'mine': Score(np.float32(3), '', True, 'p', np.int64(1)), 'b': Score(torch.ones(()), '', None, '', 1)}"
    )
    text = METRIC.format(f"subject.notes['shares'] = torch.ones(2)\n    {scores}")
    code, _, error = attempt(text, benchmark={"metrics": ["mine"]})
    assert code == 0, error
    results = read_results(tmp_path / "r")
    assert results["metrics"]["mine"]["value"] == 3 and results["metrics"]["b"]["value"] == 1
    assert results["shares"] == [1, 1]
    assert main(["evaluate", str(tmp_path / "r"), "--again"]) == 0, "its own rows may be written again"


def test_one_broken_sampler_leaves_the_others(attempt: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    scores = {"metrics": ["prdc_lenet"], "samplers": ["mine", "prior"], "n": 20}
    code, _, error = attempt(SAMPLER.format("return 3.0"), benchmark=scores)
    assert code == 1 and error.splitlines()[-1].startswith("error: no samples from 'mine', for the reason above")
    assert any(row.get("sampler") == "prior" for row in read_results(tmp_path / "r")["metrics"].values())


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"metrics": ["fud"]}, "no metric named 'fud'. Did you mean 'fid'?"),
        ({"metrics": ["mse"], "samplers": ["gmm"]}, "no sampler named 'gmm'. Did you mean 'gmm10'?"),
        ({"metrics": ["nll"], "options": {"nll": {"kk": 3}}}, "metric 'nll' has no option 'kk'. Did you mean 'k'?"),
    ],
)
def test_a_metrics_name_is_checked_before_training(
    scores: dict[str, Any], words: str, attempt: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, error = attempt("", benchmark=scores)
    assert words in sentence(code, error)
    assert not (tmp_path / "r").exists()


def test_what_only_looks_like_a_mistake_trains(attempt: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    text = variant("""
def decode(self, z, y=None):
    assert y is None, "no labels were asked for"
    return super().decode(z)
def loss(self, batch):
    return super().loss(batch) | {"images": torch.tensor(len(batch.x)), "ninth": batch.x[8].mean()}
""")
    code, _, error = attempt(text, "model.name=mine")
    assert code == 0 and error == ""
    assert rows(tmp_path / "r")[-1]["train/images"] == 32


def test_a_dry_run_tells_too(attempt: Callable[..., tuple[int, str, str]]) -> None:
    code, _, error = attempt(returning("3.0"), "model.name=mine", "--dry-run")
    assert "Mine.loss returns a float" in sentence(code, error)


def test_list_with_a_plugin_that_is_no_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("class (:\n")
    for name, words in (("bad.py", r"raised SyntaxError: .*bad.py:1\)"), ("gone.py", "there is no file")):
        code = main(["list", "--plugin", str(tmp_path / name)])
        assert re.search(words, sentence(code, capsys.readouterr().err))


# ---- the rehearsal itself


class Restless(StubVAE):
    """Everything that a turn may change: statistics, counters, buffers, random states, parameters that rest."""

    players = ("vae", "critic")

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.norm = nn.BatchNorm2d(image.channels)
        self.critic = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.steps = 0
        self.notes: list[int] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.seen += 1
        self.steps += 1
        self.notes.append(len(batch.x))
        random.random()
        np.random.rand()
        return super().loss(Batch(self.norm(batch.x), batch.y))

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.critic(self(batch.x).z).square().mean()}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_rehearsal_changes_nothing(precision: str) -> None:
    model = Restless(ImageSpec(1, 4, 4, classes=3))
    model.norm.eval()
    model.progress.fill_(0.25)
    state = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    rehearse(model, CPU, precision)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, state[name]), name
    assert [module.training for module in model.modules()] == modes
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        "frozen.weight",
        "frozen.bias",
    ]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.steps == 0 and model.notes == []
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", [entry.name for entry in VARIANTS])
def test_every_variant_passes_its_rehearsal_and_keeps_its_state(name: str) -> None:
    model = zoo.create(name, ImageSpec(1, 8, 8, classes=2, train_size=20), **small(name))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    rehearse(model, CPU)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


class Needy(StubVAE):
    """Needs more images than a rehearsal draws at first."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        covariance = self(batch.x).z.detach().T.cov()
        return super().loss(batch) | {"few": batch.x[9].mean(), "volume": covariance.logdet()}


def test_a_loss_that_needs_a_whole_batch_is_given_one() -> None:
    rehearse(Needy(ImageSpec(1, 4, 4)), CPU, images=16)
    with pytest.raises(PluginError, match="Needy.loss raised IndexError: index 9 is out of bounds"):
        rehearse(Needy(ImageSpec(1, 4, 4)), CPU, images=8)


def test_a_model_that_can_not_be_copied_is_let_through_and_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    model = StubVAE(ImageSpec(1, 4, 4))
    model.kept = model.encoder(torch.zeros(1, 16))
    rehearse(model, CPU)
    said = capsys.readouterr().err
    assert said.startswith("warning: StubVAE can't be copied (Only Tensors created explicitly by the user")
    assert said.endswith("so it is not tried out before it is trained\n") and said.count("\n") == 1


def test_a_copy_that_memory_has_no_room_for_is_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(model: object) -> None:
        raise MemoryError

    monkeypatch.setattr("copy.deepcopy", refused)
    with pytest.raises(MemoryError):
        rehearse(StubVAE(ImageSpec(1, 4, 4)), CPU)


def test_a_mistake_of_the_zoos_own_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.create("mlp", ImageSpec(1, 8, 8), hidden_dims=[4])
    monkeypatch.setattr(type(model), "logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rehearse(model, CPU)


# ---- the stub


def test_the_stub_is_a_whole_variant() -> None:
    check_variant(StubVAE)
    check_variant(StubVAE, ImageSpec(1, 5, 7, (-1.0, 1.0), attributes=2), latent_dim=3)


def test_what_is_abstract_can_not_be_built() -> None:
    class Half(BaseVAE):
        def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
            return z

    with pytest.raises(TypeError, match="abstract"):
        Half(ImageSpec(1, 2, 2))  # type: ignore[abstract]
    with pytest.raises(AssertionError, match="Half lacks encode, forward, loss and sample"):
        check_variant(Half)
    VARIANTS.register("half")(Half)
    with pytest.raises(UserError, match="model 'half' lacks encode, forward, loss and sample, which Half"):
        zoo.create("half", ImageSpec(1, 2, 2))
