"""Signatures as schemas."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeFloat, PositiveInt

from zoo.base import ImageSpec
from zoo.config import Fraction
from zoo.errors import UserError
from zoo.models import create, model_options, preferred_range
from zoo.nets.pairs import Widths
from zoo.options import check_options, signature_options, type_name


class Parent:
    def __init__(self, image: Any, *, a: PositiveInt = 1, kind: Literal["x", "y"] = "x") -> None: ...


class Child(Parent):
    def __init__(self, image: Any, *, a: Fraction = 0.5, b: str, **options: Any) -> None: ...


class Silent(Child): ...


class Closed(Parent):
    def __init__(self, image: Any, *, c: list[int] = []) -> None: ...  # noqa: B006


def function(root: Any, *, flag: bool = False, sizes: Widths = [1]) -> None: ...  # noqa: B006


@pytest.mark.parametrize(
    ("target", "names"),
    [(Parent, "a kind"), (Child, "a b kind"), (Silent, "a b kind"), (Closed, "c"), (function, "flag sizes")],
)
def test_options_are_the_keyword_only_parameters(target: Any, names: str) -> None:
    options = signature_options(target)
    assert " ".join(options) == names
    assert not any(isinstance(parameter.annotation, str) for parameter in options.values())


def test_a_childs_option_comes_before_its_parents() -> None:
    options = signature_options(Child)
    assert (options["a"].annotation, options["a"].default) == (Fraction, 0.5)
    assert options["b"].default is inspect.Parameter.empty


def test_values_are_checked_and_converted() -> None:
    known = signature_options(Child)
    assert check_options("it", known, {"b": "s", "a": "0.25"}) == {"b": "s", "a": 0.25}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"b": "s", "knd": "x"}, r"^it has no option 'knd'\. Did you mean 'kind'\? Known: a, b, kind$"),
        ({}, "^it needs the option 'b'$"),
        ({"b": 3}, "^it: b is 3: input should be a valid string$"),
        ({"b": "s", "a": 1.0}, r"^it: a is 1\.0: input should be less than 1$"),
        ({"b": "s", "a": -0.1}, "^it: a is -0.1: input should be greater than or equal to 0$"),
        ({"b": "s", "kind": "z"}, "^it: kind is 'z': input should be 'x' or 'y'$"),
    ],
)
def test_wrong_options_are_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_options("it", signature_options(Child), given)


def test_given_options_are_not_changed() -> None:
    given = {"sizes": [3, 4]}
    checked = check_options("it", signature_options(function), given)
    checked["sizes"].append(5)
    assert given == {"sizes": [3, 4]}


def test_any_class_may_annotate_an_option() -> None:
    def takes(*, image: ImageSpec | None = None, free=None) -> None: ...  # type: ignore[no-untyped-def]

    image = ImageSpec(1, 2, 3)
    assert check_options("it", signature_options(takes), {"image": image, "free": takes}) == {
        "image": image,
        "free": takes,
    }


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (PositiveInt, "int > 0"),
        (NonNegativeFloat, "float >= 0"),
        (Fraction, "float >= 0, < 1"),
        (Annotated[int, Field(gt=2, le=5)], "int > 2, <= 5"),
        (Literal["mse", "bce"], "'mse' | 'bce'"),
        (Literal["mse"] | None, "'mse' | None"),
        (tuple[Fraction, int], "tuple[float >= 0, < 1, int]"),
        (dict[str, Any], "dict[str, Any]"),
        (list[PositiveInt], "list of int > 0"),
        (Widths, "list of int > 0"),
        (Any, "Any"),
        (dict[str, int], "dict[str, int]"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert type_name(annotation) == words


# ---- of models


def test_a_models_options_are_its_own_its_parents_and_its_nets() -> None:
    known = model_options("beta", {"net": "mlp"})
    assert {"warmup", "beta", "latent_dim", "recon", "net", "hidden_dims"} <= known.keys()
    assert "base_channels" not in known and "net_options" not in known
    assert known["beta"].default == 4
    assert model_options("mlp", {})["latent_dim"].default == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 0}, "model 'beta': latent_dim is 0: input should be greater than 0"),
        ({"latent_dim": 1.5}, "latent_dim is 1.5"),
        ({"beta": -1}, "beta is -1"),
        ({"beta": float("inf")}, "beta is inf"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"warmup": 1}, "warmup is 1"),
        ({"warmup": -0.1}, "warmup is -0.1"),
        ({"cycles": 0}, "cycles is 0"),
        ({"schedule": "step"}, "schedule is 'step': input should be 'linear', 'cosine' or 'cyclical'"),
        ({"recon": "mae"}, "recon is 'mae'"),
        ({"reduction": "none"}, "reduction is 'none'"),
        ({"out_activation": "relu"}, "out_activation is 'relu'"),
        ({"net": "cnv"}, "no net named 'cnv'. Did you mean 'conv'"),
        ({"net": "mlp", "base_channels": 3}, "model 'beta' has no option 'base_channels'"),
        ({"latent_dims": 3}, "has no option 'latent_dims'. Did you mean 'latent_dim'"),
    ],
)
def test_a_models_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        create("beta", ImageSpec(1, 16, 16), **options)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mlp", {}, (0, 1)),
        ("conv", {}, (0, 1)),
        ("vanilla", {}, (-1, 1)),
        ("celeba", {}, (-1, 1)),
        ("vanilla", {"recon": "bce"}, (0, 1)),
        ("vanilla", {"out_activation": "sigmoid"}, (0, 1)),
        ("conv", {"out_activation": "tanh"}, (-1, 1)),
        ("beta", {"net": "vanilla"}, (-1, 1)),
        ("beta", {"net": "vanilla", "out_activation": "none"}, (-1, 1)),
    ],
)
def test_preferred_range_fits_the_model(name: str, options: dict[str, Any], expected: tuple[float, float]) -> None:
    assert preferred_range(name, options) == expected
    create(name, ImageSpec(3, 32, 32, preferred_range(name, options)), **options)
