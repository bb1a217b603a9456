"""A step on noise before the first step of a run: an author's mistake is told at once, in one sentence.

Everything that training, evaluation and pictures will ask of a model is asked once, of a copy and with a few images;
the model, its statistics, its gradients and all random states stay as they are. What is checked here is what a run
would die of; `zoo.testing.check_variant` checks far more.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from zoo.base import PARTS, BaseVAE, Batch, VAEOutput, random_batch
from zoo.config import PlayerOptimizer
from zoo.errors import PluginError, UserError, crash, is_ours, place, warn

IMAGES = 4  # BatchNorm needs two, and a loss that compares two halves of a batch two of each


def rehearse(model: BaseVAE, device: torch.device, precision: str = "no", images: int = IMAGES) -> None:
    """Give each player a turn on noise, and call what evaluation and pictures call. On every rank alike.

    Args:
        model: Before it is wrapped; not changed.
        device: Where it will be trained.
        precision: "no", "fp16" or "bf16".
        images: How many the model will see at once.

    Raises:
        PluginError: one sentence about the first thing that is wrong, which names class and method.
    """
    check_players(model)
    few = min(IMAGES, images)
    try:
        _try_out(model, device, precision, few)
    except Exception:
        if few == images:
            raise
        # A loss may need more images (a covariance of full rank, say): a batch of the run's own size tells.
        _try_out(model, device, precision, images)


def check_players(model: BaseVAE) -> None:
    """See that each player has a loss, and parameters to minimise it by.

    Raises:
        PluginError: if one hasn't.
    """
    name, where = type(model).__name__, place(type(model))
    if isinstance(model.players, str) or "vae" not in model.players:
        raise PluginError(f"{name}.players is {model.players!r}, not a tuple such as ('vae', 'critic') ({where})")
    if len(set(model.players)) < len(model.players):
        raise PluginError(f"{name}.players names a player twice: {model.players!r} ({where})")
    if isinstance(model.batch_terms, str):
        advice = f"write ({model.batch_terms!r},)"
        raise PluginError(f"{name}.batch_terms is {model.batch_terms!r}, not a tuple: {advice} ({where})")
    if not isinstance(model.not_exported, Mapping) or not set(model.not_exported) <= set(PARTS):
        advice = f"name which of {', '.join(PARTS)}, and why: {{'sampler': 'it …'}}"
        raise PluginError(f"{name}.not_exported is {model.not_exported!r}: {advice} ({where})")
    for player, settings in model.optimizers.items():
        if player not in model.players:
            raise PluginError(f"{name}.optimizers has settings of {player!r}, which is no player of it ({where})")
        try:
            PlayerOptimizer.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            known = ", ".join(PlayerOptimizer.model_fields)
            raise PluginError(f"{name}.optimizers[{player!r}]: {fault}. Known: {known} ({where})") from error
    for player in model.players:
        method = loss_name(player)
        if not callable(getattr(model, method, None)):
            raise PluginError(f"{name} has the player {player!r}, but no method {method}(batch) ({where})")
        if player != "vae" and type(model).player_parameters is BaseVAE.player_parameters:
            module = getattr(model, player, None)
            if not isinstance(module, nn.Module):
                found = "not set" if module is None else _kind(module)
                raise PluginError(
                    f"{name} has the player {player!r}, which trains the module self.{player}, but that is {found}: "
                    f"set it in {name}.__init__ ({where})"
                )
    for player in model.players:
        own = _call(model, "player_parameters", model.player_parameters, player)
        if not any(parameter.requires_grad for parameter in own):
            raise PluginError(f"the player {player!r} of {name} owns no parameters to train ({where})")


def loss_name(player: str) -> str:
    """Return the name of a player's loss: "loss" of player "vae", "critic_loss" of "critic"."""
    return "loss" if player == "vae" else f"{player}_loss"


def terms_fault(method: str, terms: object) -> str:
    """Say what is wrong with what a loss returned, whatever its numbers; "" if nothing is.

    Args:
        method: Whose it is, for the sentence: "MyVAE.loss".
        terms: What it returned.
    """
    if not isinstance(terms, dict):
        return f'{method} returns {_kind(terms)}; it must return a dict of named terms, such as {{"loss": loss}}'
    if "loss" not in terms:
        return f"{method} returns {sorted(map(str, terms))}, without the term 'loss', which is what is minimised"
    for name, term in terms.items():
        what = f"the term {name!r} of {method}"
        if not isinstance(name, str):
            return f"{what} has {_kind(name)} for a name, not a string"
        if name == "epoch" or name.startswith("epoch_"):
            return f"{what} can't have this name: means over an epoch are logged so"
        if not isinstance(term, Tensor):
            advice = f": write batch.x.new_tensor({name})" if isinstance(term, int | float) else ""
            return f"{what} is {_kind(term)}, not a tensor{advice}"
        if term.shape != ():
            return f"{what} has shape {list(term.shape)}; it must be a scalar: take its mean over the batch"
    return ""


def images_fault(what: str, images: object, shape: tuple[int, ...]) -> str:
    """Say in which way something is no tensor of this shape; "" if it is one."""
    if not isinstance(images, Tensor):
        return f"{what} is {_kind(images)}, not a tensor"
    return "" if images.shape == shape else f"{what} has shape {list(images.shape)}, not {list(shape)}"


@contextmanager
def own_parameters_alone(model: BaseVAE, player: str) -> Iterator[set[int]]:
    """Let a player's parameters alone take gradients, as in its turn; yield their ids. Frozen ones never do."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = {id(parameter) for parameter in model.player_parameters(player)}
    try:
        for parameter in trainable:
            parameter.grad = None
            parameter.requires_grad_(len(model.players) == 1 or id(parameter) in own)
        yield own
    finally:
        for parameter in trainable:
            parameter.grad = None
            parameter.requires_grad_(True)


def _try_out(model: BaseVAE, device: torch.device, precision: str, images: int) -> None:
    with _random_states_kept(device):
        try:
            understudy = copy.deepcopy(model)
        except MemoryError:
            raise
        except Exception as error:  # as of a tensor computed from a parameter, such as torch's old weight_norm keeps
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warn(f"{type(model).__name__} can't be copied ({reason}), so it is not tried out before it is trained")
            return
        torch.manual_seed(0)  # the same noise on every rank
        x, y = random_batch(model.image, images)
        understudy.to(device)
        batch = Batch(x.to(device), None if y is None else y.to(device))
        understudy.train()
        for player in understudy.players:
            _try_turn(understudy, player, batch, precision)
            _call(understudy, "after_turn", understudy.after_turn, player)
        understudy.eval()
        understudy.progress.fill_(1.0)
        with torch.no_grad():
            terms = _call(understudy, "loss", understudy.loss, batch)
            _demand(terms_fault(_named(understudy, "loss"), terms), understudy, "loss")
            _try_pictures(understudy, batch)


def _try_turn(model: BaseVAE, player: str, batch: Batch, precision: str) -> None:
    """Take a player's loss and its gradient, as at the first step."""
    name = loss_name(player)
    method, loss_of = _named(model, name), getattr(model, name)
    plays = _call(model, "plays", model.plays, player, 0)
    if not isinstance(plays, bool):
        _demand(f"{_named(model, 'plays')} returns {_kind(plays)}; it must return True or False", model, "plays")
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    with own_parameters_alone(model, player) as own:
        with torch.autocast(model.device.type, dtype, enabled=precision != "no"):
            terms = _call(model, name, loss_of, batch)
        _demand(terms_fault(method, terms), model, name)
        loss = terms["loss"]
        for term, value in terms.items():
            is_what = ""
            if value.device != loss.device:
                is_what = f"on {value.device.type}, and the loss on {loss.device.type}"
            elif precision != "fp16" and not value.isfinite():  # fp16's loss scaling passes over such a step
                is_what = f"{value.item():g} at the first step, for images of noise"
            _demand(is_what and f"the term {term!r} of {method} is {is_what}", model, name)
        if not loss.requires_grad:
            why = "something detaches it, such as .detach(), .item() or torch.no_grad()"
            _demand(f"the term 'loss' of {method} has no gradient to what player {player!r} owns: {why}", model, name)
        _call(model, name, loss.backward, doing="the gradient of ")
        reached = any(p.grad is not None for p in model.parameters() if id(p) in own)
        _demand("" if reached else f"no gradient of {method} reaches what player {player!r} owns", model, name)


def _try_pictures(model: BaseVAE, batch: Batch) -> None:
    """Call what evaluation and pictures will, in evaluation mode; two images are enough for a shape."""
    x, y = batch.x[:2], batch.y[:2] if batch.y is not None and model.needs_labels else None
    n, shape = len(x), tuple(x.shape)
    latents = _call(model, "encode", model.encode, x, y)
    if not isinstance(latents, tuple) or len(latents) != 2:
        _demand(f"{_named(model, 'encode')} returns {_kind(latents)}, not a pair, mu and logvar", model, "encode")
    mu = latents[0]
    if not isinstance(mu, Tensor) or mu.ndim != 2 or len(mu) != n:
        found = f"has shape {list(mu.shape)}" if isinstance(mu, Tensor) else f"is {_kind(mu)}"
        _demand(f"the mu that {_named(model, 'encode')} returns {found}, not [{n}, D]", model, "encode")
    out = _call(model, "forward", model, x, y)
    if not isinstance(out, VAEOutput):
        _demand(f"{_named(model, 'forward')} returns {_kind(out)}, not a zoo.VAEOutput", model, "forward")
    _demand(images_fault(f"the recon of {_named(model, 'forward')}", out.recon, shape), model, "forward")
    calls: dict[str, Callable[[], Any]] = {
        "decode": lambda: model.decode(out.z, y),
        "reconstruct": lambda: model.reconstruct(x, y),
        "sample": lambda: model.sample(n, y, torch.Generator().manual_seed(0)),
    }
    for name, call in calls.items():
        _demand(images_fault(f"what {_named(model, name)} returns", _call(model, name, call), shape), model, name)


def _call(model: BaseVAE, name: str, function: Callable[..., Any], *arguments: Any, doing: str = "") -> Any:
    """Call a method; what somebody's class raises becomes a sentence, what the zoo's own raises is a bug of ours."""
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        if all(is_ours(type(module)) for module in model.modules()):
            raise
        raise crash(f"{doing}{_named(model, name)}", error, getattr(model, name)) from error


def _demand(fault: str, model: BaseVAE, name: str) -> None:
    """Raise a fault, if there is one, with the place of the method; of the class, where that is inherited from us."""
    if fault:
        method, cls = getattr(model, name), type(model)
        raise PluginError(f"{fault} ({place(cls if is_ours(method) else method)})")


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def _named(model: BaseVAE, method: str) -> str:
    return f"{type(model).__name__}.{method}"


def _kind(thing: object) -> str:
    name = "tensor" if isinstance(thing, Tensor) else type(thing).__name__
    return "None" if thing is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
