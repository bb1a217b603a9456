"""YAML, inheritance, overrides, and a sentence for everything that can be wrong."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo.config import Config, apply_overrides, load_config, parse_yaml, read_yaml
from zoo.errors import UserError
from zoo.reports.reference import load_references, read_run
from zoo.reports.suite import load_suite

MINIMAL = "model: {name: mlp}\ndata: {name: digits}\nsteps: 5\n"


def write(folder: Path, **files: str) -> Path:
    """Write files (`a` for a.yaml) and return the first one's path."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def load(folder: Path, *overrides: str, text: str = MINIMAL) -> Config:
    return load_config(write(folder, c=text), overrides)


def complaint(folder: Path, *overrides: str, text: str = MINIMAL) -> str:
    with pytest.raises(UserError) as error:
        load(folder, *overrides, text=text)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("2E+3", 2000.0), ("-5.e1", -50.0), (".5e0", 0.5), ("1e4", 1e4), ("e4", "e4"), ("1e", "1e")],
)
def test_numbers_without_a_point_are_numbers(text: str, value: Any, tmp_path: Path) -> None:
    assert parse_yaml(text, "") == value
    assert type(parse_yaml(text, "")) is type(value)


def test_a_number_keeps_its_meaning_in_file_and_override(tmp_path: Path) -> None:
    assert load(tmp_path, text=MINIMAL + "lr: 1e-4").lr == 1e-4
    assert load(tmp_path, "lr=3e-4", "model.beta=1e-1").model.options == {"beta": 0.1}


def test_broken_yaml_is_one_sentence(tmp_path: Path) -> None:
    assert "c.yaml is not valid YAML: " in complaint(tmp_path, text="model: {name: mlp\nlr: 3")
    assert "the value of lr is not valid YAML: " in complaint(tmp_path, "lr=[1")


def test_a_file_must_hold_keys(tmp_path: Path) -> None:
    assert "c.yaml must hold `key: value` lines, not a list" in complaint(tmp_path, text="- model")
    assert "'model' is missing" in complaint(tmp_path, text="")


def test_plugins_from_a_yaml_tag_are_not_run(tmp_path: Path) -> None:
    assert "not valid YAML" in complaint(tmp_path, text="model: !!python/object/apply:os.getcwd []")


# ---- base


def test_a_config_inherits_and_nested_keys_are_merged(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", grand="data: {name: mnist, size: 32}\nlr: 1\nseed: 1\n")
    path = write(
        tmp_path,
        child="base: [parent.yaml, other.yaml]\ndata: {flip: true}\nmodel: {name: beta}\n",
        parent="base: deep/grand.yaml\nlr: 2\nmodel: {name: conv, beta: 3}\noptimizer: {betas: [0.5, 0.9]}\n",
        other="lr: 3\noptimizer: {betas: [0.1, 0.2]}\n",
    )
    assert read_yaml(path) == {
        "data": {"name": "mnist", "size": 32, "flip": True},
        "model": {"name": "beta", "beta": 3},
        "optimizer": {"betas": [0.1, 0.2]},  # the later base wins, and lists are replaced
        "lr": 3,
        "seed": 1,
    }


def test_one_base_may_be_reached_twice(tmp_path: Path) -> None:
    path = write(tmp_path, a="base: [b.yaml, c.yaml]", b="base: d.yaml", c="base: d.yaml\nlr: 1", d="lr: 2\nseed: 3")
    assert read_yaml(path) == {"lr": 1, "seed": 3}


@pytest.mark.parametrize("base", ["", "[]"])
def test_an_empty_base_is_none(base: str, tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, a=f"lr: 1\nbase: {base}")) == {"lr": 1}


def test_a_circle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, a="base: b.yaml", b="base: c.yaml", c="base: a.yaml")
    with pytest.raises(UserError, match="inherits from itself through base: a.yaml -> b.yaml -> c.yaml -> a.yaml$"):
        read_yaml(path)


def test_a_missing_file_is_named_with_who_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no config file .*gone.yaml$"):
        read_yaml(tmp_path / "gone.yaml")
    path = write(tmp_path, a="base: gone.yaml")
    with pytest.raises(UserError, match=r"there is no config file .*gone.yaml \(named as base in .*a.yaml\)"):
        read_yaml(path)


@pytest.mark.parametrize("base", ["3", "{a: b.yaml}", "[b.yaml, 3]"])
def test_a_base_that_names_no_file_is_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base must be a file's name or a list of them"):
        read_yaml(write(tmp_path, a=f"base: {base}", b="lr: 1"))


@pytest.mark.parametrize(
    ("child", "parent", "kept"),
    [
        ("steps: 7", "epochs: 3", {"steps": 7}),
        ("epochs: 3", "steps: 7", {"epochs": 3}),
        ("lr: 1", "epochs: 3", {"epochs": 3, "lr": 1}),
        ("steps: 7\nepochs: 3", "", {"steps": 7, "epochs": 3}),
        ("model: {steps: 7}", "model: {epochs: 3}", {"model": {"epochs": 3, "steps": 7}}),  # a variant's own options
    ],
)
def test_a_length_given_later_replaces_the_other_unit(child: str, parent: str, kept: Any, tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, child=f"base: parent.yaml\n{child}", parent=parent)) == kept


def test_an_overriding_length_replaces_the_other_unit(tmp_path: Path) -> None:
    config = load(tmp_path, "epochs=2")
    assert (config.epochs, config.steps) == (2, None)


def test_plugin_files_count_from_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    absolute = tmp_path / "far.py"
    write(tmp_path, base=f"plugins: [mine.py, ../up.py, pack.mine, {absolute}]")
    (tmp_path / "deep").mkdir()
    path = write(tmp_path / "deep", c="base: ../base.yaml\n" + MINIMAL)
    assert [str(Path(p)) for p in load_config(path).plugins] == [
        str(tmp_path / "mine.py"),
        str(tmp_path / ".." / "up.py"),
        "pack.mine",
        str(absolute),
    ]


# ---- overrides


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        *("data.size=16", "model.hidden_dims=[3, 4]", "model.net=mlp", "optimizer.betas=[0.5, 0.9]", "ema=null"),
        *("trackers=[tensorboard]", "wandb.project=a=b", "benchmark.options.fid.k=3", "data.range=[-1, 1]"),
    )
    assert config.data.size == 16 and config.data.range == (-1, 1) and config.data.name == "digits"
    assert config.model.options == {"hidden_dims": [3, 4], "net": "mlp"}
    assert config.optimizer.betas == (0.5, 0.9) and config.optimizer.name == "adam"
    assert config.ema is None and config.trackers == ["tensorboard"] and config.wandb.project == "a=b"
    assert config.benchmark.options == {"fid": {"k": 3}}


def test_later_overrides_win_and_the_values_given_are_left_alone() -> None:
    values: dict[str, Any] = {"data": {"size": 1}, "steps": 3}
    assert apply_overrides(values, ["data.size=2", "data.size=3", "epochs=1"]) == {"data": {"size": 3}, "epochs": 1}
    assert values == {"data": {"size": 1}, "steps": 3}


@pytest.mark.parametrize("override", ["lr", "=3", "--lr"])
def test_what_is_no_setting_is_refused(override: str, tmp_path: Path) -> None:
    assert f"{override!r} is not a setting; write key=value" in complaint(tmp_path, override)


# ---- every field


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epocs=3", "unknown key 'epocs'. Did you mean 'epochs'?"),
        (
            "optimizer.beta=[0, 0]",
            "unknown key 'optimizer.beta'. Did you mean 'betas'? Known: betas, centered, eps",
        ),
        ("wandb.projct=x", "unknown key 'wandb.projct'. Did you mean 'project'?"),
        ("benchmark.metric=[fid]", "unknown key 'benchmark.metric'. Did you mean 'metrics'?"),
    ],
)
def test_an_unknown_key_says_what_is_near(override: str, words: str, tmp_path: Path) -> None:
    assert f"c.yaml: {words}" in complaint(tmp_path, override)


def test_a_misspelt_key_is_named_before_the_one_that_is_missing(tmp_path: Path) -> None:
    assert "unknown key 'modle'. Did you mean 'model'?" in complaint(tmp_path, text="modle: {name: mlp}\nsteps: 1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {name: digits}\nsteps: 1", "'model' is missing"),
        ("model: {beta: 1}\ndata: {name: digits}\nsteps: 1", "'model.name' is missing"),
        ("model: {name: mlp}\ndata: {}\nsteps: 1", "'data.name' is missing"),
        ("model: {name: mlp}\ndata: {name: digits}", "set either epochs or steps"),
        (MINIMAL + "epochs: 1", "set either epochs or steps"),
    ],
)
def test_what_is_missing(text: str, words: str, tmp_path: Path) -> None:
    assert words in complaint(tmp_path, text=text)


POSITIVE_INTEGERS = (
    *("batch_size", "accumulate", "threads", "log_every", "eval_every", "checkpoint_every", "keep", "eval_batch_size"),
    "patience",
    *("data.size", "data.limit", "benchmark.n", "steps"),
)
ILLEGAL = {
    **dict.fromkeys(POSITIVE_INTEGERS, ("0", "-1", "1.5", "many", "[]")),
    **dict.fromkeys(("seed", "lr_warmup"), ("-1", "1.5", "many")),
    "seeds": ("[]", "[-1]", "[0.5]", "3"),
    **dict.fromkeys(("epochs", "lr", "clip", "optimizer.eps", "warmup_epochs"), ("0", "-1", "many", ".inf", ".nan")),
    **dict.fromkeys(("ema",), ("0", "1", "-1", "2", ".nan")),
    **dict.fromkeys(("data.val_fraction", "data.test_fraction"), ("1", "-0.1", "2", "some", ".nan")),
    "optimizer.weight_decay": ("-1", "some", ".inf", ".nan"),
    "optimizer.betas": ("[1, 0.5]", "[0.5]", "[0.5, -0.1]", "0.9"),
    "optimizer.name": ("adm", "3"),
    "lr_schedule": (
        *("step", "3", "{multistep: {milestones: [2]}}", "{multistep: {milestones: [], gamma: 0.5}}", "{burda: 3}"),
        *(f"{{multistep: {{milestones: {m}, gamma: {g}}}}}" for m, g in (("[3, 2]", 0.5), ("[0]", 0.5), ("[2]", 1))),
    ),
    "optimizer.centered": ("maybe", "2"),
    "init": ("kaiming", "1"),
    "init_bias_from_data": ("maybe", "2"),
    "evaluate_on": ("first", "1"),
    "device": ("gpu", "tpu"),
    "mixed_precision": ("yes", "fp32"),
    "trackers": ("[mlflow]", "wandb"),
    "wandb.mode": ("off",),
    "data.range": ("[0, 255]", "[0]", "[1, 0]", "unit"),
    "data.val_from": ("val",),
    **dict.fromkeys(("data.flip", "data.dequantise", "channels_last", "compile"), ("maybe", "2")),
    **dict.fromkeys(("shard", "tune", "optimizer.fused"), ("maybe", "2")),
    "data.binarize": ("static", "1", "yes"),
    "data.random_crop": ("-1", "1.5", "some"),
    "data.split_seed": ("1.5", "x"),
    "data.root": ("3",),
    "data.name": ("3", "[a]"),
    "model.name": ("3", "null"),
    "model": ("3", "mlp"),
    **dict.fromkeys(("out", "title", "init_from"), ("3",)),
    "freeze": ("encoder", "[3]"),
    "plugins": ("mine.py", "[3]"),
    "benchmark.metrics": ("fid",),
    "benchmark.options": ("[1]",),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ILLEGAL.items() for value in values])
def test_every_limit_is_checked(key: str, value: str, tmp_path: Path) -> None:
    message = complaint(tmp_path, f"{key}={value}")
    assert message.startswith(f"{tmp_path / 'c.yaml'}: ")
    assert key.split(".")[-1] in message


def test_every_field_has_an_illegal_value_above() -> None:
    free = {"wandb", "benchmark", "optimizer", "data"}
    assert {key.split(".")[0] for key in ILLEGAL} >= Config.model_fields.keys() - free


def test_no_is_a_word_and_still_a_truth_value_where_one_is_wanted(tmp_path: Path) -> None:
    assert load(tmp_path, "mixed_precision=no").mixed_precision == "no"
    assert load(tmp_path, text=MINIMAL + "mixed_precision: no").mixed_precision == "no"
    assert [load(tmp_path, f"data.flip={word}").data.flip for word in ("yes", "true", "no", "false")] == [1, 1, 0, 0]


def test_a_dumped_config_loads_as_the_same(tmp_path: Path) -> None:
    schedule = "lr_schedule={multistep: {milestones: [2, 3], gamma: 0.5}}"
    config = load(
        tmp_path, schedule, "data.root=some/where", "data.range=[0, 1]", "optimizer.eps=1e-9", "model.hidden_dims=[3]"
    )
    text = yaml.safe_dump(config.dump(), sort_keys=False)
    assert load_config(write(tmp_path, dumped=text)) == config


def test_defaults_are_not_shared_between_configs(tmp_path: Path) -> None:
    first, second = load(tmp_path), load(tmp_path)
    first.plugins.append("x")
    first.optimizer.eps = 1.0
    assert second.plugins == [] and second.optimizer.eps == 1e-8 and load(tmp_path).optimizer.eps == 1e-8


# ---- texts that say little and mean much


def bomb(first: str, many: str) -> str:
    """Seven aliases, each of which stands for nine of the one before."""
    parts = [many.format(",".join([f"*{alias}"] * 9)) for alias in "abcdefg"]
    return f"[&a {first}" + "".join(f",&{alias} {part}" for alias, part in zip("bcdefgh", parts, strict=True)) + "]"


MUCH = {
    "aliases of aliases": (bomb("[x]", "[{}]"), "stands for more than 100,000 values"),
    "aliases as keys": (bomb("{x: 1}", "{{<<: [{}]}}"), "stands for more than 100,000 values"),
    "an alias within itself": ("&a [*a]", "an alias stands within what it stands for"),
    "a thousand levels": ("[" * 1000 + "]" * 1000, "nested more than 100 deep"),
    "a thousand levels of keys": ("{a: " * 1000 + "1" + "}" * 1000, "nested more than 100 deep"),
    "a level for each alias": (
        "[&a0 [x]" + "".join(f",&a{n + 1} [*a{n}]" for n in range(200)) + "]",
        "aliases are nested more than 100 deep",
    ),
    "4,301 digits": ("1" * 4301, "a number of 4,301 digits, and 100 are read"),
    "4,301 hexadecimal digits": ("0x" + "f" * 4301, "digits, and 100 are read"),
    "4,301 digits of a float": ("1." + "1" * 4300, "digits, and 100 are read"),
    "a long text": ("x" * 1_000_001, "characters, and no config is longer than 1,000,000"),
    "no number after all": ("0x_", "is not valid YAML: invalid literal"),
    "a zero byte": ('"\\0"', "it has a zero byte, or what UTF-8 has not"),
    "half a character": ('"\\ud800"', "it has a zero byte, or what UTF-8 has not"),
    **{
        f"the tag of {text!r}": (text, "and tags are not read")
        for text in ("!!int x", "!!float ''", "!!bool x", "!!timestamp x", "!!binary x", "!mine x", "!!set {a}")
    },
}


@pytest.mark.parametrize(("text", "words"), MUCH.values(), ids=MUCH)
def test_a_text_that_means_too_much_is_refused_at_once(text: str, words: str, tmp_path: Path) -> None:
    started = time.process_time()
    assert words in complaint(tmp_path, f"title={text}")
    assert words in complaint(tmp_path, text=f"{MINIMAL}title: {text}\n")
    for command in (load_suite, load_references, read_run):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        results = {"variant": "mlp", "dataset": "d", "image": [1, 8, 8], "seed": 0, "config_hash": "", "metrics": {}}
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=re.escape(words)):
            command(folder if command is read_run else folder / "config.yaml")
    assert time.process_time() - started < 10


def test_an_alias_is_read(tmp_path: Path) -> None:
    text = MINIMAL + "lr: &rate 1e-4\noptimizer: {eps: *rate}\n"
    assert load(tmp_path, text=text).optimizer.eps == 1e-4


def test_a_date_is_a_word(tmp_path: Path) -> None:
    assert load(tmp_path, "title=2001-02-03").title == "2001-02-03"
    assert parse_yaml("2001-13-41", "") == "2001-13-41"


# ---- bytes that are no text


@pytest.mark.parametrize("kind", ["latin-1", "utf-16", "binary"])
def test_a_file_that_is_no_utf8_is_named(kind: str, tmp_path: Path) -> None:
    text = MINIMAL + "title: schön\n"
    content = b"\x80\x04\x95\xff" if kind == "binary" else text.encode(kind)
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    write(tmp_path, child="base: c.yaml")
    for read in (load_config, load_suite, load_references, lambda _: load_config(tmp_path / "child.yaml")):
        with pytest.raises(UserError, match=r"c.yaml is no text in UTF-8$"):
            read(path)


# ---- values that nothing can have


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed=18446744073709551616", "seed is 18446744073709551616: it must be within ±9223372036854775807"),
        ("data.split_seed=9223372036854775808", "to fit into 64 bits"),
        ("model.latent_dim=-9223372036854775809", "model.latent_dim is -9223372036854775809: it must be within"),
        ("model.hidden_dims=[1,1e39]", "model.hidden_dims is 1e+39: it must be within ±3.4e+38"),
        ("lr=1e308", "lr is 1e+308: it must be within ±3.4e+38"),
        ("threads=100000", "threads is 100000: input should be less than or equal to 1024"),
        ("threads=0", "threads is 0: input should be greater than 0"),
        ("out=''", "out is '': it names no place"),
        ("out=~nobody-of-this-name/x", "there is no home of '~nobody-of-this-name'"),
        (f"out={'x' * 256}", "a path has at most 4,000 bytes, and each name in it 255"),
        (f"data.root={'x/' * 2500}", "a path has at most 4,000 bytes"),
        (f"title=[{'x' * 5000}]", "x…: input should be a valid string"),
        (f"base={'x' * 5000}", "unknown key 'base'"),
        (
            "optimizer={critic: {speed: 1}}",
            "unknown key 'optimizer.critic.speed'. Known: betas, centered, eps, lr,",
        ),
    ],
)
def test_a_value_that_nothing_can_have_is_named(setting: str, words: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, setting)
    assert words in said and len(said) < 1000


def test_a_base_whose_name_is_too_long_is_not_there(tmp_path: Path) -> None:
    assert "there is no config file" in complaint(tmp_path, text=f"base: {'x' * 5000}")


def test_a_place_at_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load(tmp_path, "out=~/x", "data.root='~'", "init_from=~/y")
    assert (config.out, config.data.root, config.init_from) == (tmp_path / "x", tmp_path, tmp_path / "y")
