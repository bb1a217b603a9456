"""What lies in a run's folder may be anybody's: whatever it holds, each command gives a result or one sentence."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
import zoo.config
from tests.runs import digest, make_config, run
from tests.test_bad_runs import ABSURD, mutate, write_board
from zoo.commands import main
from zoo.commands.own import class_names
from zoo.engine.checkpoint import Checkpoints, load_state
from zoo.engine.folder import read_membership
from zoo.errors import UserError
from zoo.evaluation import evaluate_run
from zoo.files import parse_json
from zoo.hub import place_of, shared_files
from zoo.records import read_history, read_log, read_progress, read_results
from zoo.reports.board.compare import compare
from zoo.reports.reference import load_references, measured, read_run
from zoo.texts import placeless, placeless_command, without_places
from zoo.weights import weights_digest


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("records") / "good"
    assert run(make_config(out, steps=20, keep=3)) == 0
    return out


@pytest.fixture
def handed(good: Path, tmp_path: Path) -> Path:
    """A copy of the run, which somebody may change."""
    out = tmp_path / "handed"
    shutil.copytree(good, out, symlinks=True)
    return out


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Have what never ends fail, and not hang."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(use: Callable[[], object]) -> str:
    """Return the sentence of a mistake, or "" where there was none; anything else is raised."""
    try:
        use()
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def every_use(out: Path) -> Iterator[Callable[[], object]]:
    yield lambda: evaluate_run(out, [])
    yield lambda: shared_files(out, place_of("hf://me/mine"))
    yield lambda: class_names(out)
    yield lambda: zoo.Run(out).metrics
    yield lambda: zoo.Run(out)._repr_html_()


@pytest.mark.parametrize("seed", range(10))
def test_results_that_no_run_wrote(seed: int, handed: Path) -> None:
    chance = random.Random(seed)
    file = handed / "results.json"
    results = json.loads(file.read_text())
    for use in every_use(handed):
        file.write_text(json.dumps(mutate(results, chance), ensure_ascii=True))
        outcome(use)


@pytest.mark.parametrize(
    "key", ["metrics", "terms", "benchmarked", "classes", "title", "elsewhere", "parameters", "latent_dim", "seed"]
)
def test_results_that_lack_something(key: str, handed: Path) -> None:
    file = handed / "results.json"
    results = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in results.items() if name != key}))
    for use in every_use(handed):
        assert outcome(use) == ""
    file.write_text(json.dumps(results | {key: None}))
    for use in every_use(handed):
        outcome(use)


LINES = [
    *("{", "[]", "5", "null", '"x"', "{}", "NaN", "9" * 5000, "[" * 5000, '{"step": ' * 300 + "1" + "}" * 300),
    *('{"step": "x"}', '{"step": null}', '{"step": -1}', '{"step": 1, "loss": [1]}', '{"step": 1, "loss": "x"}'),
    *('{"step": 1e400}', '{"step": 1, "loss": ' + "1" + "0" * 400 + "}"),
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_lines_that_no_run_wrote(line: str, handed: Path) -> None:
    for name, read in (("metrics.jsonl", read_log), ("history.jsonl", read_history)):
        file = handed / name
        whole = file.read_text()
        file.write_text(f"{whole}{line}\n")
        with pytest.raises(UserError, match=rf"{name}, line {len(whole.splitlines()) + 1}"):
            read(handed)


@pytest.mark.parametrize("line", [LINES[0], *LINES[-5:]], ids=range(6))
def test_a_run_goes_on_after_lines_that_no_run_wrote(line: str, handed: Path) -> None:
    for name in ("metrics.jsonl", "history.jsonl"):
        with (handed / name).open("a") as file:
            file.write(f"{line}\n")
    (handed / "results.json").unlink()
    outcome(lambda: evaluate_run(handed, []))  # draws the losses
    assert (handed / "training_losses.png").is_file()
    assert "history.jsonl" in outcome(lambda: run(make_config(handed, steps=25), resume=True))
    (handed / "history.jsonl").unlink()
    assert outcome(lambda: run(make_config(handed, steps=25), resume=True)) == ""
    lines = (handed / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 25
    kept = line.startswith(
        ('{"step": 1, ', '{"step": -1}')
    )  # of a step before: whatever else is in it, no resume takes it away
    assert (line in lines) == kept
    assert bool(outcome(lambda: read_log(handed))) == kept


def test_bytes_that_are_no_text(handed: Path) -> None:
    for name, read in (("metrics.jsonl", read_log), ("history.jsonl", read_history), ("results.json", read_results)):
        (handed / name).write_bytes(b"\xff\xfe\n")
        with pytest.raises(UserError, match=f"{name} is no text in UTF-8"):
            read(handed)


@pytest.mark.parametrize("depth", [*range(40, 50), *range(51, 60), 300, 700, 980, 5000, 100_000])
def test_json_without_end(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        found = outcome(lambda text=text: parse_json(text, "x.json"))
        assert bool(found) == (depth > 50)
        assert not found or found.startswith("x.json is ")


def sign(checkpoint: Path) -> None:
    """Write the digests anew, as whoever changed the files can."""
    digests = {
        file.name: hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
        for file in checkpoint.iterdir()
        if file.name != "digests.json"
    }
    (checkpoint / "digests.json").write_text(json.dumps(digests))


def test_the_digests_of_this_test_are_those_of_the_zoo(handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    before = (newest / "digests.json").read_text()
    sign(newest)
    assert json.loads((newest / "digests.json").read_text()) == json.loads(before)


@pytest.mark.parametrize("seed", range(30))
def test_progress_that_no_run_wrote(seed: int, handed: Path) -> None:
    chance = random.Random(seed)
    newest = handed / "checkpoints" / "step_00000020"
    progress = json.loads((newest / "state.json").read_text())
    changed = mutate(progress, chance) if seed % 3 else chance.choice(ABSURD)
    (newest / "state.json").write_text(json.dumps(changed))
    sign(newest)
    damaged = outcome(lambda: read_progress(newest / "state.json"))
    checkpoints = Checkpoints(handed, keep=2)
    found = checkpoints.newest()
    checkpoints.close()
    assert found is not None
    assert found[0].name == ("step_00000016" if damaged else "step_00000020")


def test_progress_that_no_run_wrote_is_passed_over(handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    (newest / "state.json").write_text("[]")
    sign(newest)
    shutil.rmtree(handed / "checkpoints" / "best", ignore_errors=True)
    assert outcome(lambda: run(make_config(handed, steps=25), resume=True)) == ""


@pytest.mark.parametrize("state", [[], {}, 5, {"vae": 5}, {"vae": {}}])
def test_the_state_of_other_optimizers(state: Any, handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (newest / "state.pt").write_bytes(buffer.getvalue())
    sign(newest)
    found = outcome(lambda: run(make_config(handed, steps=25), resume=True))
    assert ("is of another model" if isinstance(state, dict) else "state.pt is damaged") in found


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("make", [a_pipe, a_socket, Path.mkdir])
@pytest.mark.parametrize(
    "name", ["results.json", "metrics.jsonl", "history.jsonl", "samples.png", "plugins/x.json", "checkpoints/x.pt"]
)
def test_what_is_no_file_is_not_opened(name: str, make: Callable[[Path], None], handed: Path) -> None:
    path = handed / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    make(path)
    for use in (
        lambda: evaluate_run(handed, []),
        lambda: shared_files(handed, place_of("hf://me/mine")),
        lambda: run(make_config(handed, steps=25), resume=True),
        lambda: zoo.load(handed),
        lambda: read_run(handed),
    ):
        assert outcome(use).endswith("remove it")


# --- the board


def with_metric(out: Path, seed: int, **metric: Any) -> None:
    results = json.loads((out / "results.json").read_text())
    results["metrics"]["psnr"] |= metric
    (out / "results.json").write_text(json.dumps(results | {"seed": seed}))


@pytest.mark.parametrize(
    "values",
    [
        [float("inf"), 1.0],
        [float("inf"), float("-inf")],
        [float("nan"), 1.0, 2.0],
        [3e38, -3e38],
        [0.0, 0.0],
        [5e-324, 0.0],
    ],
)
@pytest.mark.parametrize("se", [None, 0.1, 1e-300])
def test_numbers_at_the_edge(values: list[float], se: float | None, good: Path, tmp_path: Path) -> None:
    for seed, value in enumerate(values):
        shutil.copytree(good, tmp_path / "runs" / str(seed), symlinks=True)
        with_metric(tmp_path / "runs" / str(seed), seed, value=value, se=se)
    shutil.copytree(good, tmp_path / "runs" / "zero", symlinks=True)
    results = json.loads((good / "results.json").read_text())
    (tmp_path / "runs" / "zero" / "results.json").write_text(json.dumps(results | {"config_hash": "other"}))
    with_metric(tmp_path / "runs" / "zero", 0, value=0, se=se)
    page = write_board(tmp_path / "runs", tmp_path / "board")
    assert "psnr" in page.lower()
    assert "psnr" in compare(tmp_path / "runs" / "0", tmp_path / "runs" / "zero").lower()


@pytest.mark.parametrize(
    "facts", [{"steps": 10**18, "batch_size": 10**18}, {"images_per_second": 1e-320}, {"steps": -1}, {"steps": 10**15}]
)
def test_absurd_costs(facts: dict[str, Any], good: Path, handed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(good, handed.parent / "other", symlinks=True)
    results = json.loads((handed / "results.json").read_text())
    (handed / "results.json").write_text(json.dumps(results | facts | {"seed": 1}))
    write_board(handed.parent, handed.parent.parent / f"{handed.parent.name}_board")
    assert ("warning" in capsys.readouterr().err) == (facts != {"steps": 10**15})


def test_keys_that_are_no_words(good: Path, handed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(good, handed.parent / "other", symlinks=True)
    for more in ("{x: [{1: 2, b: 3}]}", "{1: 2, b: 3}", "{true: 1}"):
        config = yaml.safe_load((good / "config.yaml").read_text())
        (handed / "config.yaml").write_text(yaml.safe_dump(config) + f"zz: {more}\n")
        write_board(handed.parent, handed.parent.parent / f"{handed.parent.name}_board")
        assert "is no word" in capsys.readouterr().err


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_log_that_a_published_number_is_held_against(
    line: str, handed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    per_epoch = next(reference for reference in load_references() if len(reference.values) > 1)
    found = read_run(handed)
    (handed / "metrics.jsonl").write_text(f"{line}\n")
    assert measured(per_epoch, found) is None
    assert "metrics.jsonl, line 1" in capsys.readouterr().err


# --- texts

PLACES = [
    *("/home/me/secret/x.pth", "~/secret/x.pth", "~me/secret/x.pth", "file:///home/me/secret/x.pth"),
    *("C:\\Users\\me\\secret\\x.pth", "c:/Users/me/secret/x.pth", "\\\\me\\secret\\x.pth"),
    *("/home/me/a secret/x.pth", "/home/me of mine/secret place/x.pth", "C:\\Users\\me of mine\\secret\\x.pth"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("around", ["{}", "see {} for it", "see:{}", "({}), twice", "a={}", "'{}'", "1/2 {}", "[{}]"])
def test_where_things_lie_is_nobody_elses_business(place: str, around: str) -> None:
    for clean in (without_places(around.format(place)), placeless({"a": [around.format(place)]})["a"][0]):
        assert "secret" not in clean and "me" not in clean.split(), clean
        assert "x.pth" in clean
    assert without_places(around.format(place)) == around.format("…/x.pth")


@pytest.mark.parametrize("text", ["https://github.com/me/it/x", "images/s", "./a/b/c", "1 / 2", "KL/dim, and a/b", "/"])
def test_what_is_no_place_stays(text: str) -> None:
    assert without_places(text) == text
    assert placeless(text) == text or text == "/"


@pytest.mark.parametrize("place", PLACES)
def test_no_page_tells_where_things_lie(place: str, handed: Path) -> None:
    results = json.loads((handed / "results.json").read_text())
    results |= {"title": f"mine ({place})", "command": f"python run.py --config '{place}' out='{place}'"}
    results["metrics"]["psnr"] |= {"protocol": f"by {place}", "sampler": place}
    (handed / "results.json").write_text(json.dumps(results))
    config = yaml.safe_load((handed / "config.yaml").read_text())
    config["data"]["root"], config["title"] = place, f"mine ({place})"
    (handed / "config.yaml").write_text(yaml.safe_dump(config))
    board = handed.parent.parent / f"{handed.parent.name}_board"
    write_board(handed.parent, board)
    for file in board.iterdir():
        assert b"secret" not in file.read_bytes(), file


def test_control_characters_are_shown(handed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((handed / "results.json").read_text())
    results["metrics"]["\x1b[2J"] = {"value": 1.0, "unit": "\x1b[31m"}
    results["terms"]["\x9b2J"] = 1.0
    (handed / "results.json").write_text(json.dumps(results))
    evaluate_run(handed, [])
    for arguments in (["evaluate", "no\x1b[2Jrun"], ["--config", "no\x9b2J"], ["list\x1b[2J"]):
        assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.count("error: ") == 3
    assert not any(character in told.out + told.err for character in "\x1b\x9b")


def test_a_score_is_no_formula(handed: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "=HYPERLINK(1)"
    pictures.mkdir()
    shutil.copy(handed / "samples.png", pictures / "=1+1.png") if (handed / "samples.png").exists() else None
    shutil.copy(next(handed.glob("*.png")), pictures / "=1+1.png")
    out = tmp_path / "scores.csv"
    assert main(["score", str(handed), str(pictures), "--out", str(out)]) == 0
    with out.open(newline="") as file:
        assert [row["name"][0] for row in csv.DictReader(file)] == ["'"]


@pytest.mark.parametrize("title", ["two\nlines", "\x1b[2J", "x" * 500])
def test_a_gallery_of_any_title(title: str, handed: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((handed / "config.yaml").read_text())
    config["title"] = title
    config["data"] |= {"title": title}
    (handed / "config.yaml").write_text(yaml.safe_dump(config))
    assert outcome(lambda: main(["gallery", str(handed), "--out", str(tmp_path / "g.png")])) == ""
    assert (tmp_path / "g.png").is_file()


def test_one_bad_picture_leaves_the_others(handed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {file.stem for file in handed.glob("*.png")}
    bad = next(handed.glob("*.png"))
    bad.write_bytes(b"")
    assert zoo.Run(handed).pictures.keys() == names - {bad.stem}
    assert bad.name in capsys.readouterr().err


def test_results_stay_as_they_are_written(handed: Path) -> None:
    results = json.loads((handed / "results.json").read_text())
    assert read_results(handed) == results
    assert read_results(handed, "more") == {}
    assert copy.deepcopy(results) == zoo.Run(handed).results


# --- what a stranger's folder says of itself


@pytest.mark.parametrize("left", ["checkpoints", "metrics.jsonl", "split.safetensors", "model.safetensors"])
def test_any_trace_makes_it_a_run(left: str, handed: Path, tmp_path: Path) -> None:
    mark, elsewhere = tmp_path / "mark", tmp_path / "elsewhere"
    for path in handed.iterdir():
        if path.name not in (left, "config.yaml"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "split.safetensors":  # a data set of files has one
        save_file({"train": torch.zeros(3, dtype=torch.int64)}, handed / left)
    (handed / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    config = yaml.safe_load((handed / "config.yaml").read_text())
    config |= {"plugins": ["evil.py"], "out": str(elsewhere)}
    (handed / "config.yaml").write_text(yaml.safe_dump(config))
    main(["--config", str(handed / "config.yaml"), "--resume"])
    assert not mark.exists() and not elsewhere.exists()


@pytest.mark.parametrize("inside", [True, False])
def test_a_runs_config_is_no_link(inside: bool, handed: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("title: a secret\nmodel: [a secret")
    real = handed / "real.yaml"
    real.write_text(f"base: {secret}\n")
    (handed / "config.yaml").unlink()
    (handed / "config.yaml").symlink_to("real.yaml" if inside else secret)
    for use in (
        *every_use(handed),
        lambda: zoo.Run(handed).config,
        lambda: main(["sample", str(handed), "--out", str(tmp_path / "s.png")]) and None,
        lambda: run(zoo.config.load_config(handed / "config.yaml"), resume=True),
    ):
        assert "a secret" not in outcome(use)


def test_a_link_to_itself(handed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(handed, handed.parent / "other", symlinks=True)
    latest = handed / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to("latest")
    for use in (lambda: read_run(handed), lambda: zoo.load(handed), lambda: evaluate_run(handed, [])):
        assert "leads back to itself" in outcome(use)
    latest.unlink()
    (handed / "model.safetensors").unlink()
    (handed / "model.safetensors").symlink_to("model.safetensors")
    assert "leads back to itself" in outcome(lambda: run(make_config(tmp_path / "n", init_from=str(handed))))


@pytest.mark.parametrize("content", [b"", b".", b"\xff", b"..", b"/etc", b"x" * 1000, b"step_00000010"])
def test_pointers_that_are_files(content: bytes, handed: Path) -> None:
    (handed / "model.safetensors").unlink()
    latest = handed / "checkpoints" / "latest"
    latest.unlink()
    latest.write_bytes(content)
    assert bool(outcome(lambda: zoo.load(handed))) == (content != b"step_00000010")


@pytest.mark.parametrize(
    "change",
    [
        {"exp_avg": torch.zeros(3)},
        {"exp_avg": torch.zeros(())},
        {"exp_avg_sq": torch.zeros(16, 64, dtype=torch.int64)},
        {"exp_avg": [1.0]},
        {"step": torch.zeros(4)},
        {"step": torch.tensor(-1.0)},
        {"step": "x"},
        {"max_exp_avg_sq": torch.zeros(16, 64)},
    ],
    ids=str,
)
def test_moments_that_do_not_fit(change: dict[str, Any], handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    state = torch.load(newest / "state.pt", weights_only=True)
    state["vae"]["state"][0] |= change
    torch.save(state, newest / "state.pt")
    sign(newest)
    assert "is of another model (" in outcome(lambda: run(make_config(handed, steps=25), resume=True))


def test_settings_are_the_configs(handed: Path, tmp_path: Path) -> None:
    shutil.copytree(handed, tmp_path / "undisturbed", symlinks=True)
    newest = handed / "checkpoints" / "step_00000020"
    state = torch.load(newest / "state.pt", weights_only=True)
    wrong = dict.fromkeys(("betas", "amsgrad", "maximize", "differentiable", "lr", "eps"), True)
    state["vae"]["param_groups"][0] |= wrong | {"params": [0, 0]}
    torch.save(state, newest / "state.pt")
    sign(newest)
    for out in (handed, tmp_path / "undisturbed"):
        assert run(make_config(out, steps=25), resume=True) == 0
    assert digest(handed) == digest(tmp_path / "undisturbed")


@pytest.mark.parametrize("fault", ["missing", "more", "shape", "dtype", "nan", "header"])
def test_weights_of_a_checkpoint_that_do_not_fit(fault: str, handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    file = newest / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    weights = load_file(file)
    name = next(iter(weights))
    weights["extra"] = torch.zeros(1)
    weights |= {
        "missing": {},
        "more": {},
        "shape": {name: torch.zeros(3)},
        "dtype": {name: weights[name].long()},
        "nan": {name: weights[name] * float("nan")},
        "header": {},
    }[fault]
    for key in {"missing": [name, "extra"], "more": []}.get(fault, ["extra"]):
        del weights[key]
    recipe = json.loads(metadata["zoo"]) | {"digest": weights_digest(weights)}
    save_file(weights, file, {"zoo": json.dumps(recipe)})
    if fault == "header":
        file.write_bytes(b"\xff" * 100)
    sign(newest)
    found = outcome(lambda: run(make_config(handed, steps=25), resume=True))
    assert "model.safetensors" in found


def test_a_step_that_is_not_the_folders(handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    progress = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(progress | {"step": 12}))
    sign(newest)
    checkpoints = Checkpoints(handed, keep=2)
    found = checkpoints.newest()
    checkpoints.close()
    assert found is not None and found[0].name == "step_00000016"


@pytest.mark.parametrize(
    "split",
    [
        {"train": torch.zeros(3)},
        {"train": torch.zeros(3, 2, dtype=torch.int64)},
        {"train": torch.zeros((), dtype=torch.int64)},
        {"train": torch.zeros(3, dtype=torch.bool)},
        {"other": torch.zeros(3, dtype=torch.int64)},
    ],
    ids=str,
)
def test_splits_that_no_run_wrote(split: dict[str, torch.Tensor], handed: Path) -> None:
    save_file(split, handed / "split.safetensors")
    with pytest.raises(UserError, match="split.safetensors holds no digests of pictures"):
        read_membership(handed)


@pytest.mark.parametrize("text", ["a." * 50_000, "' " + "a." * 40_000, "/a " * 30_000, "~a" * 40_000, "//" * 40_000])
def test_long_texts_are_read_once(text: str) -> None:
    """Each character is looked at a bounded number of times: a quadratic search of this length takes a minute."""
    with within(20):
        without_places(text)
        placeless([text])
        placeless_command(text)


def test_a_card_shows_digests_as_text(handed: Path) -> None:
    evil = "abc)\n\n# PWN <script>alert(1)</script> \x1b[2J"
    file = handed / "model.safetensors"
    with safe_open(file, "pt") as opened:
        recipe = json.loads(opened.metadata()["zoo"])
    save_file(load_file(file), file, {"zoo": json.dumps(recipe | {"plugins": {"my.py": evil}})})
    card = shared_files(handed, place_of("hf://me/mine"))["README.md"]
    assert isinstance(card, bytes)
    assert b"<script>" not in card.replace(b"\\<", b"") and b"\n# PWN" not in card and b"\x1b" not in card


def test_options_without_end(handed: Path) -> None:
    file = handed / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()["zoo"]
    deep = metadata.replace('"net"', '"zz": ' + "[" * 900 + "]" * 900 + ', "net"', 1)
    save_file(load_file(file), file, {"zoo": deep})
    assert "damaged" in outcome(lambda: zoo.load(handed))


def test_overwriting_leaves_a_users_pictures(handed: Path) -> None:
    from zoo.engine import folder
    from zoo.files import PICTURES

    drawn = {file.name for ending in ("png", "webp") for file in handed.glob(f"*.{ending}")}
    assert {Path(name).stem for name in drawn} <= set(PICTURES)
    shutil.copy(handed / "reconstructions.png", handed / "my_holiday.png")
    folder.clear(handed)
    assert [file.name for file in handed.iterdir() if file.suffix in (".png", ".webp")] == ["my_holiday.png"]


def test_a_warning_is_one_line(handed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(handed, handed.parent / "other", symlinks=True)
    bad = handed.parent / "x\nerror: all your base\x1b[2J"
    handed.rename(bad)
    (bad / "results.json").write_text("[]")
    write_board(bad.parent, bad.parent.parent / f"{bad.parent.name}_board")
    told = capsys.readouterr()
    assert "\nerror:" not in told.err + told.out and "\x1b" not in told.err + told.out


def changed_state(handed: Path, change: Callable[[torch.Tensor], Any]) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    state = torch.load(newest / "state.pt", weights_only=True)
    for entries in state["vae"]["state"].values():
        entries |= {name: change(value) for name, value in entries.items() if name != "step"}
    torch.save(state, newest / "state.pt")
    sign(newest)


def test_a_tensor_that_holds_less_than_it_says(handed: Path) -> None:
    changed_state(handed, lambda moment: torch.zeros(1).expand(moment.shape))
    assert run(make_config(handed, steps=25), resume=True) == 0


def test_moments_of_another_layout(handed: Path) -> None:
    changed_state(handed, torch.Tensor.to_sparse)
    assert "is of another model" in outcome(lambda: run(make_config(handed, steps=25), resume=True))


BROKEN = [
    *(b"\x80\x09.", b"\x80\x02h\x09.", b"\x80\x02X\x02\0\0\0\xff\xff.", b"\x80\x02}]K\x01s.", b"\x80\x02K\x01Q."),
    *(b"ccollections\nOrderedDict\nK\x01\x85R.", b"ctorch._utils\n_rebuild_tensor_v2\n)R.", b""),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_broken_pickles(content: bytes, zipped: bool, handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    if zipped:
        with zipfile.ZipFile(newest / "state.pt") as packed:
            members = {name: packed.read(name) for name in packed.namelist()}
        with zipfile.ZipFile(newest / "state.pt", "w") as packed:
            for name, old in members.items():
                packed.writestr(name, content if name.endswith("data.pkl") else old)
    else:
        (newest / "state.pt").write_bytes(content)
    sign(newest)
    with pytest.raises(UserError, match="state.pt is damaged"):
        load_state(newest)


def test_a_state_that_is_a_tensor(handed: Path) -> None:
    newest = handed / "checkpoints" / "step_00000020"
    torch.save(torch.ones(3), newest / "state.pt")
    with pytest.raises(UserError, match="state.pt is damaged"):
        load_state(newest)


@pytest.mark.parametrize("name", ["step_000000000020", "step_0000000000000", "step_" + "9" * 30, "step_٠٠٠٠٠٠٢٠"])
def test_checkpoints_of_other_names_are_none(name: str, handed: Path) -> None:
    shutil.copytree(handed / "checkpoints" / "step_00000020", handed / "checkpoints" / name)
    assert run(make_config(handed, steps=25, keep=1, checkpoint_every=1), resume=True) == 0
    assert (handed / "checkpoints" / name).is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_wandbs_link_alone_is_passed_over(handed: Path, tmp_path: Path) -> None:
    wandb = handed / "wandb" / "run-1" / "logs"
    wandb.mkdir(parents=True)
    (wandb / "debug-core.log").symlink_to(tmp_path / "elsewhere")
    assert outcome(lambda: zoo.load(handed)) == ""
    strange = handed / "checkpoints" / "step_00000020" / "debug-core.log"
    os.mkfifo(strange)
    assert "is neither a file nor a folder" in outcome(lambda: zoo.load(handed))
    strange.unlink()
    strange.symlink_to("/etc/hostname")
    assert "out of the run's folder" in outcome(lambda: zoo.load(handed))


def test_tensors_of_nothing_that_say_they_are_large(handed: Path) -> None:
    file = handed / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    recipe = json.loads(header["__metadata__"]["zoo"])
    del recipe["digest"]
    header["__metadata__"]["zoo"] = json.dumps(recipe)
    header["extra"] = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    for use in (
        lambda: zoo.load(handed),
        lambda: run(make_config(handed.parent / "n", steps=2, init_from=str(handed))),
    ):
        assert "model.safetensors" in outcome(use)
