"""A run's settings: YAML with `base:` inheritance and `key=value` overrides, every field checked. No torch."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from zoo.errors import UserError
from zoo.files import is_of_a_run, read_text
from zoo.registry import did_you_mean
from zoo.shipped import config_names, find_config
from zoo.values import is_text, shown, unfit

# Of what is read.
MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
MOST_DIGITS = 100
DEEPEST = 100

LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes: a run writes files below its folder
Threads = Annotated[int, Field(gt=0, le=1024)]  # with some ten thousand, the library of threads crashes
Fraction = Annotated[float, Field(ge=0, lt=1)]
PixelRange = tuple[float, float]


def _check_size(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Answer for the kind that was meant, a number or a pair; a pair of equals is a number."""
    try:
        size = check(value)
    except ValidationError as error:
        if isinstance(value, list | tuple):
            raise ValueError("it must be one number of pixels, or [height, width]") from None
        raise ValueError(error.errors()[0]["msg"]) from None
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def _find_place(path: Path) -> Path:
    """Return a path with its `~` resolved, see that it may be one."""
    if path == Path():
        raise ValueError("it names no place: give a path, or leave it out")
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home of {path.parts[0]!r}") from None
    if len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise ValueError(f"a path has at most {LONGEST_PATH:,} bytes, and each name in it {LONGEST_NAME}")
    if len(path.parts) > DEEPEST:
        raise ValueError(f"a path leads through at most {DEEPEST} folders")
    return path


Place = Annotated[Path, AfterValidator(_find_place)]
PixelSize = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], WrapValidator(_check_size)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class ModelConfig(BaseModel):
    """Which variant, and its options; these are checked against the variant's own signature when it is built."""

    model_config = ConfigDict(extra="allow")

    name: str  # the variant: `variants` lists them

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name: keyword arguments of the variant."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _image_is_none_of_them(self) -> ModelConfig:
        if "image" in self.options:
            raise ValueError("image is no option: what images a model takes follows from the data")
        return self


class DataConfig(BaseModel):
    """Which images, and how they are presented; further keys are options of the data set's own function."""

    model_config = ConfigDict(extra="allow", validate_default=True)

    name: str  # the data set: `datasets` lists them
    root: Place | None = None  # else the environment's DATA_ROOT, else data/
    title: str | None = None  # what the data is called in results; None: its folder's name if it is yours, else `name`
    size: PixelSize | None = None  # pixels: one number, or [height, width]; None: what the data set is known for
    limit: PositiveInt | None = None  # at most so many images of each official split, or in all where there is none
    range: PixelRange | None = None  # [0, 1] or [-1, 1]; None: what fits the model's output
    val_fraction: Fraction = 0.1  # share of `val_from` held out for validation
    val_from: Literal["train", "test"] = "train"  # the split that validation is cut from
    test_fraction: Fraction = 0.1  # share held out for testing where there is no official test split
    split_seed: NonNegativeInt = 0  # what is held out does not move with the run's seed
    balance: bool = False  # training draws all classes equally often; an epoch is still as many images as there are
    flip: bool = False  # mirror training images left to right, at random
    random_crop: NonNegativeInt = 0  # pad training images by so many mirrored pixels, and crop them at random
    dequantise: bool = False  # add to each training pixel a random part of its grey level
    # Pixels of all splits made white or black by chance, their grey level the probability. fixed: by one draw for ever,
    # by split_seed. dynamic: by another at each look in training, and of val and test by one for each seed of a run
    binarize: Literal["none", "dynamic", "fixed"] = "none"

    @property
    def options(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known_range(self) -> DataConfig:
        if self.range not in (None, (0, 1), (-1, 1)):
            raise ValueError("range must be [0, 1] or [-1, 1]")
        if self.dequantise and self.binarize != "none":
            raise ValueError("dequantise adds noise to grey levels, and binarize leaves none: set one of them alone")
        return self


OptimizerName = Literal["adam", "adamw", "adamax", "sgd", "rmsprop"]


class PlayerOptimizer(_Strict):
    """What one player's optimizer has of its own; None: as its variant's paper has it, else as all players'."""

    name: OptimizerName | None = None  # which optimizer
    lr: PositiveFloat | None = None  # learning rate
    betas: tuple[Fraction, Fraction] | None = None  # decay of both moments
    eps: PositiveFloat | None = None  # added to the denominator
    weight_decay: NonNegativeFloat | None = None  # as all players' `weight_decay`
    centered: bool | None = None  # as all players' `centered`


class OptimizerConfig(_Strict):
    """Settings of all players' optimizers; their rate is the run's `lr`. A player's own: `critic: {lr: 1e-4}`."""

    model_config = ConfigDict(extra="allow", validate_default=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, PlayerOptimizer]

    name: OptimizerName = "adam"  # which optimizer, of all players that have none of their own
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # decay of both moments; rmsprop: the second is its smoothing
    eps: PositiveFloat = 1e-8  # added to the denominator
    weight_decay: NonNegativeFloat = 0.0  # adamw: decoupled; else added to the gradient, times the weight
    centered: bool = False  # rmsprop: divide by the gradient's standard deviation, not by its root mean square
    fused: bool = True  # one kernel for all parameters

    @property
    def players(self) -> dict[str, PlayerOptimizer]:
        """Those with settings of their own."""
        return self.__pydantic_extra__

    @model_validator(mode="before")
    @classmethod
    def _a_player_has_settings(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            if key not in cls.model_fields and not isinstance(value, dict | PlayerOptimizer):
                raise ValueError(f"unknown key 'optimizer.{key}'.{did_you_mean(key, cls.model_fields)}")
        return values


class Multistep(_Strict):
    """A rate that is multiplied by `gamma` once so many epochs are over as each of the milestones says."""

    milestones: Annotated[list[PositiveInt], Field(min_length=1)]  # epochs, the first one first
    gamma: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Multistep:
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        return self


class MultistepSchedule(_Strict):
    """`lr_schedule: {multistep: {milestones: [200, 350], gamma: 0.63}}`."""

    multistep: Multistep


def _check_schedule(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Answer for the kind that was meant, a word or a mapping."""
    try:
        return check(value)
    except ValidationError as error:
        if not isinstance(value, dict):
            known = "constant, linear, cosine, burda or {multistep: {milestones: [200, 350], gamma: 0.5}}"
            raise ValueError(f"it must be {known}") from None
        fault = next(e for e in error.errors() if e["loc"][0] == MultistepSchedule.__name__)
        where, said = ".".join(map(str, fault["loc"][1:])), fault["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {said}") from None


Schedule = Annotated[
    Literal["constant", "linear", "cosine", "burda"] | MultistepSchedule, WrapValidator(_check_schedule)
]


class WandbConfig(_Strict):
    """Where Weights & Biases puts the run, if `trackers` names it."""

    project: str = "vae-zoo"  # the project that the run is put in
    entity: str | None = None  # whose project; None: as WANDB_ENTITY, else the account's own
    group: str | None = None  # what the run belongs to; None: as WANDB_RUN_GROUP, which in a suite is its name
    tags: list[str] = []  # none: as WANDB_TAGS
    mode: Literal["online", "offline", "disabled"] | None = None  # None: as WANDB_MODE in the environment, else online


class BenchmarkConfig(_Strict):
    """What a trained model is scored by, beyond the metrics loss and psnr that every run reports."""

    metrics: list[str] = []  # registered metrics: fid, kid, prdc, ssim, nll, …
    samplers: list[str] = ["prior"]  # where samples are drawn from: prior, gaussian, gmm10, second_stage
    n: PositiveInt = 10_000  # samples drawn, and reference images at most
    inception_weights: Place | None = None  # the 2015 Inception's weight file, for fid, kid and is
    mobilenet_weights: Place | None = None  # torchvision's MobileNetV2, for fd_mobilenet and its like
    dinov2_weights: Place | None = None  # a folder with facebook/dinov2-large, for fd_dinov2 and its like
    clip_weights: Place | None = None  # a folder with openai/clip-vit-large-patch14-336, for cmmd
    options: dict[str, dict[str, Any]] = {}  # metric name: its own options


class Config(_Strict):
    """One run, resolved and checked."""

    model: ModelConfig
    data: DataConfig
    plugins: list[str] = []  # files (counted from the config file) or modules with variants, data sets, nets
    seed: NonNegativeInt = 0  # of initial weights, order of images and noise
    # What `run.py papers` runs and averages, each in a run of its own; None: the seed alone
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = None
    out: Place | None = None  # the run's folder; None: runs/<variant>_<dataset>_z<latent>_s<size>_<seed>, or …_2, …_3
    title: str | None = None  # what the run is called on a leaderboard; None: its variant's name
    init_from: Place | None = None  # a run, or a model.safetensors, whose weights it starts from, as far as they fit
    init: Literal["default", "he", "xavier"] = "default"  # of encoder and decoder; default: as torch has it
    init_bias_from_data: bool = False  # the decoder's last bias: the logit of the training images' mean, pixel by pixel
    freeze: list[str] = []  # modules that are not trained, such as [encoder]

    epochs: PositiveFloat | None = None  # length: how many times each training image is seen; or else steps
    steps: PositiveInt | None = None  # length: how many batches are trained on; or else epochs
    batch_size: PositiveInt = 128  # global: all ranks and accumulated micro-batches together
    accumulate: PositiveInt = 1  # micro-batches per step

    lr: PositiveFloat = 1e-3  # learning rate, of all players that have none of their own
    # Of the run's share (linear, cosine) or its epochs: multistep, see `Multistep`; burda: 3^i epochs each at
    # lr x 10^(-i/7), i = 0 to 7, which are 3,280 epochs
    lr_schedule: Schedule = "constant"
    lr_warmup: NonNegativeInt = 0  # steps
    warmup_epochs: PositiveFloat | None = None  # of the KL's weight: `model.warmup`, told in epochs and not as a share
    optimizer: OptimizerConfig = OptimizerConfig.model_validate({})
    clip: PositiveFloat | None = None  # greatest norm of a player's gradient
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay at step n: min(ema, (1 + n) / (10 + n))

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: a GPU if there is one
    mixed_precision: Literal["no", "fp16", "bf16", "auto"] = "auto"  # auto: bf16 where the hardware multiplies it
    channels_last: bool = True  # memory layout of convolutions and their images
    compile: bool = False  # torch.compile of the training step: minutes at the start, faster afterwards
    tune: bool = False  # time a few steps of each precision and layout at the start, and keep the fastest
    shard: bool = False  # each process keeps a share of the weights and Adam's moments: for models too large for one
    threads: Threads | None = None  # CPU threads per process; None: the machine's cores shared by its ranks

    log_every: PositiveInt = 50  # steps
    eval_every: PositiveInt | None = None  # steps between validations; None: at each epoch's end
    checkpoint_every: PositiveInt | None = None  # steps; None: at each epoch's end
    evaluate_on: Literal["last", "best"] = "last"  # the weights that are left and scored: best by validation loss
    patience: PositiveInt | None = None  # stop after so many epochs, not counting warmup_epochs, without a better one
    keep: PositiveInt = 2  # newest checkpoints kept, beside the best by validation loss
    eval_batch_size: PositiveInt = 500  # images at a time in validation and scoring
    trackers: list[Literal["wandb", "tensorboard"]] = []  # where rows are sent, beside metrics.jsonl
    wandb: WandbConfig = WandbConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    @model_validator(mode="after")
    def _one_length(self) -> Config:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set either epochs or steps, not both or neither")
        return self

    def dump(self) -> dict[str, Any]:
        """Return plain YAML-ready values, every default written out."""
        return self.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes `1e-4` for a string and `no` for false; here, as in YAML 1.2, they are a number and a word.

    So is a date a word. A text that says little and means much is refused before anything is made of it: deep nesting,
    aliases of aliases, numbers of a thousand digits; and a tag, by which a text says what it is to be taken for.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"it has the tag {event.tag}, and tags are not read", event)
        if self.depth > DEEPEST:
            raise _refusal(f"it is nested more than {DEEPEST} deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBER_TAGS and len(node.value) > MOST_DIGITS:
            raise _refusal(f"it has a number of {len(node.value):,} digits, and {MOST_DIGITS} are read", event)
        if isinstance(node, yaml.ScalarNode) and not is_text(node.value):
            raise _refusal("it has a zero byte, or what UTF-8 has not", event)
        return node


def _refusal(why: str, at: Any) -> yaml.MarkedYAMLError:
    """Say why a text is not read; `at`: the event or node where."""
    return yaml.MarkedYAMLError(problem=why, problem_mark=at.start_mark)


def _see_that_it_is_small(root: yaml.Node | None) -> None:
    """Measure what a text stands for, each alias as often as it is used.

    Raises:
        yaml.YAMLError: if that is too much, too deep, or without end.
    """
    known: dict[int, tuple[int, int] | None] = {}  # of a node: values and depth; None while it is being measured

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) not in known:
            known[id(node)] = None
            parts: list[yaml.Node] = []
            if isinstance(node, yaml.CollectionNode):
                parts = [p for pair in node.value for p in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes = [measure(part) for part in parts]
            known[id(node)] = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        measured = known[id(node)]
        if measured is None:
            raise _refusal("an alias stands within what it stands for", node)
        if measured[0] > MOST_VALUES:
            raise _refusal(f"it stands for more than {MOST_VALUES:,} values", node)
        if measured[1] > DEEPEST + 1:
            raise _refusal(f"its aliases are nested more than {DEEPEST} deep", node)
        return measured

    if root is not None:
        measure(root)


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
for _first, _tag in [*((letter, "bool") for letter in "yYnNoO"), *((digit, "timestamp") for digit in "0123456789")]:
    _resolvers = _Loader.yaml_implicit_resolvers[_first]  # yes, no, on, off; 2001-02-03
    _Loader.yaml_implicit_resolvers[_first] = [r for r in _resolvers if r[0] != f"tag:yaml.org,2002:{_tag}"]


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; `where` names the source in the error.

    Raises:
        UserError: if it isn't YAML, or too much of it.
    """
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{where} has {len(text):,} characters, and no config is longer than {MOST_CHARACTERS:,}")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _see_that_it_is_small(root)
        return None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets Python say that `0x_` is no number
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config file with everything it inherits through `base:` (one file or a list, counted from the file).

    Args:
        path: The file; or the name of one of the zoo's configs, as a base may be as well.

    Raises:
        UserError: if a file is missing, is no mapping, or inherits from itself.
    """
    found = find_config(path)
    if found.is_symlink() and is_of_a_run(found):  # it would be read through, whatever it leads to
        raise UserError(f"{found} is a link, and a run's config is a file: remove it")
    return _read(found.resolve(), ())


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        raise UserError(f"{path} inherits from itself through base: {' -> '.join(p.name for p in (*above, path))}")
    if not os.path.isfile(path):  # no error if the name is longer than any may be
        named = f" (named as base in {above[-1]})" if above else ""
        raise UserError(f"there is no config file {path}{named}{_near(path.stem)}")
    own = parse_yaml(read_text(path), str(path)) or {}
    if not isinstance(own, dict):
        raise UserError(f"{path} must hold `key: value` lines, not a {type(own).__name__}")
    bases = own.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise UserError(f"{path}: base must be a file's name or a list of them, not {bases!r}")
    if bases and is_of_a_run(path):
        raise UserError(
            f"{path} is a run's config, which says all of itself: remove its `base`, which names other files"
        )
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _inherit(merged, _read(find_config(base, path.parent).resolve(), (*above, path)))
    if "plugins" in own and isinstance(own["plugins"], list):
        own["plugins"] = [str(path.parent / p) if str(p).endswith(".py") else p for p in own["plugins"]]
    return _inherit(merged, own)


def _near(stem: str) -> str:
    """Say which of the zoo's configs a name that is no file's comes near to, if one does."""
    known = {name.rpartition("/")[2]: name for name in config_names()}
    near = difflib.get_close_matches(stem, known, n=1)
    return f"; did you mean {known[near[0]]!r}, which comes with the zoo?" if near else ""


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one config over another; mappings merge key by key."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _inherit(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two levels of a config: a length given in the upper one replaces the lower one's in the other unit."""
    lengths = {"epochs", "steps"}
    if lengths & over.keys():
        under = {key: value for key, value in under.items() if key not in lengths}
    return _merge(under, over)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `values` with dotted `key=value` settings laid over them; each value is read as YAML.

    Raises:
        UserError: if a setting has no `=`.
    """
    layer: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override!r} is not a setting; write key=value, such as data.size=64")
        value = parse_yaml(text, f"the value of {key}")
        for part in reversed(key.split(".")):
            value = {part: value}
        layer = _merge(layer, value)
    return _inherit(values, layer)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read, merge, override and check a config.

    Raises:
        UserError: one sentence that names the file, the key, and what would be right.
    """
    return check(Config, apply_overrides(read_yaml(Path(path)), overrides), str(path))


def check(schema: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Build a `schema` from plain values.

    Raises:
        UserError: for the first value that doesn't fit.
    """
    if fault := unfit(values):
        raise UserError(f"{where}: {fault}")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(schema, error)}") from None


def _sentence(schema: type[BaseModel], error: ValidationError) -> str:
    # A misspelt key also leaves the right one missing: speak of the misspelling.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    loc = [str(part) for part in first["loc"]]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        parent: Any = schema
        for part in loc[:-1]:
            # What no field names is a player of the optimizer.
            parent = parent.model_fields[part].annotation if part in parent.model_fields else PlayerOptimizer
        return f"unknown key {key!r}.{did_you_mean(loc[-1], parent.model_fields)}"
    if first["type"] == "missing":
        return f"{key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key or message.startswith("unknown key"):
        return message
    return f"{key} is {shown(first['input'])}: {message[0].lower()}{message[1:]}"
