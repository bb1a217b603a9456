"""Runs on Hugging Face's hub: one is pushed with a model card, and loaded again as `hf://user/name`.

What is pushed, and all that is ever fetched, is data: weights as safetensors, config, results, pictures. No code is
pushed, fetched or run, and no model card is read.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from PIL import Image

from zoo.config import load_config
from zoo.data.cache import cache_folder
from zoo.documentation import document
from zoo.engine.checkpoint import recipe_of
from zoo.errors import UserError
from zoo.files import CONFIG_FILE, MODEL_FILE, MOST_JSON, RESULTS_FILE, see_that_it_is_plain
from zoo.records import read_results
from zoo.texts import placeless, printable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
SHOWN = ("reconstructions.png", "generated_samples.png")  # pictures on the card
PICTURE = re.compile(r"[A-Za-z0-9_-]{1,100}\.png")
# The most bytes that are fetched of a file; of weights, as many as the disk has room for.
MOST = {CONFIG_FILE: 2_000_000, RESULTS_FILE: MOST_JSON}
MOST_PICTURE, MOST_FILES = 20_000_000, 1000
WITHOUT_PLACE = ("out", "trackers", "wandb")  # settings that are nobody else's business
UNREACHED = {"OfflineModeIsEnabled", "ConnectionError", "TransportError", "TimeoutError"}  # of whichever HTTP library


class Place(NamedTuple):
    """A run on the hub.

    Attributes:
        repository: "user/name".
        revision: A branch, tag or commit.
    """

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision != "main" else "")


def is_on_hub(run: object) -> bool:
    """Say whether `run` names a place on the hub: "hf://user/name", in whose Path one slash is left."""
    return isinstance(run, str | os.PathLike) and str(run).startswith("hf:/")


def place_of(run: str | os.PathLike[str]) -> Place:
    """Read "hf://user/name" or "hf://user/name@revision".

    Raises:
        UserError: if it is neither.
    """
    found = re.fullmatch(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", os.fspath(run), re.ASCII)
    if found is None or ".." in found[0]:
        raise UserError(f"{printable(run)} is no place on the hub: write hf://user/name, or hf://user/name@revision")
    return Place(found[1], found[2] or "main")


def local(run: str | os.PathLike[str], trust_plugins: bool = False) -> Path:
    """Return where a run lies on this machine: of one on the hub, the copy that is fetched if it isn't there yet.

    Raises:
        UserError: if the hub has no such run, or can't be reached; or if code from it should be trusted.
    """
    if not is_on_hub(run):
        return Path(run).expanduser()
    if trust_plugins:
        raise UserError(f"{printable(run)} holds no code that could be trusted: pass the plugin itself, --plugin FILE")
    return fetched(place_of(run))


def fetched(place: Place) -> Path:
    """Return the folder of a run on the hub, fetched into the cache by its commit, unless that is there already.

    Raises:
        UserError: if there is no such run, it may not be read, it holds too much, or the hub can't be reached.
    """
    home = cache_folder() / "hub" / place.repository.replace("/", "--")
    if _is_whole(home / place.revision):
        return home / place.revision
    api = _api()
    with _telling(place, api, home):
        commit = str(api.model_info(place.repository, revision=place.revision, expand=["sha"]).sha)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise UserError(f"{place}: the hub names no commit of it")
        if _is_whole(home / commit):
            return home / commit
        sizes = _sizes(api, place, commit)
        _see_that_it_can_be_fetched(sizes, place, home)
        home.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial_", dir=home))
        try:
            for name, size in sizes.items():
                api.hf_hub_download(place.repository, name, revision=commit, local_dir=partial)
                if (partial / name).is_symlink() or (partial / name).stat().st_size != size:
                    raise UserError(f"{place}: {name} is not the file of {size:,} bytes that the hub speaks of")
            for extra in set(os.listdir(partial)) - sizes.keys():  # what the hub's library notes of its downloads
                shutil.rmtree(partial / extra)
            shutil.rmtree(home / commit, ignore_errors=True)  # of which the cache was relieved of some files
            os.replace(partial, home / commit)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return home / commit


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (CONFIG_FILE, MODEL_FILE))


def _sizes(api: HfApi, place: Place, commit: str) -> dict[str, int]:
    """Return the size in bytes of each file of a run that lies at the top of a repository."""
    sizes: dict[str, int] = {}
    for number, entry in enumerate(api.list_repo_tree(place.repository, revision=commit)):
        if number >= MOST_FILES:
            raise UserError(f"{place} has more than {MOST_FILES:,} files, and a run has some ten")
        size = getattr(entry, "size", None)  # folders have none
        if isinstance(size, int) and _belongs(entry.path):
            sizes[entry.path] = size
    return sizes


def _belongs(name: str) -> bool:
    return name in (CONFIG_FILE, MODEL_FILE, RESULTS_FILE) or PICTURE.fullmatch(name) is not None


def _see_that_it_can_be_fetched(sizes: Mapping[str, int], place: Place, home: Path) -> None:
    for name in (CONFIG_FILE, MODEL_FILE):
        if name not in sizes:
            raise UserError(f"{place} holds no run of this zoo: there is no {name} in it")
    for name, size in sizes.items():
        most = MOST.get(name, math.inf if name == MODEL_FILE else MOST_PICTURE)
        if size > most:
            raise UserError(f"{place}: {name} has {size / 1e6:,.0f} MB, and {most / 1e6:,.0f} would be many")
    there = next(folder for folder in home.parents if folder.is_dir())
    if sum(sizes.values()) > (free := shutil.disk_usage(there).free):
        raise UserError(f"{place} has {sum(sizes.values()) / 1e9:,.1f} GB, and there are {free / 1e9:,.1f} in {there}")


def push_to_hub(
    run: str | os.PathLike[str], repository: str, *, private: bool = False, license: str | None = None
) -> str:
    """Share a finished run: `zoo.push_to_hub(run, "user/name")`, and `zoo.load("hf://user/name")` loads it.

    Weights, config, results and pictures are pushed, with a model card; no plugin, no checkpoint, no log, and of the
    config no folders of this machine. What an earlier run left there is replaced. You must be logged in: `hf auth
    login`, or the environment's HF_TOKEN.

    Args:
        run: The run, or its folder.
        repository: "user/name"; made if it isn't there.
        private: Let nobody else see it, and refuse if it is there and public.
        license: What the weights may be used for, in the hub's words: "mit", "cc-by-nc-4.0"; None: nothing is stated.

    Returns:
        Where it is: "hf://user/name@commit".

    Raises:
        UserError: if the run is not finished, or the hub refuses or can't be reached.
    """
    out = Path(run).expanduser()
    place = place_of(f"hf://{repository.removeprefix('hf://')}")
    api = _api()
    files = shared_files(out, place, license)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _telling(place, api):
        api.create_repo(place.repository, private=private or None, exist_ok=True)
        if private and not api.model_info(place.repository, expand=["private"]).private:
            raise UserError(f"{place} is there already, and public: make it private on the hub, or choose another name")
        old = [entry.path for entry in api.list_repo_tree(place.repository) if _belongs(entry.path)]
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        removed = [CommitOperationDelete(name) for name in old if name not in files]
        done = api.create_commit(
            place.repository, [*added, *removed], commit_message=f"Push the run {out.resolve().name}"
        )
    return str(Place(place.repository, done.oid))


def shared_files(out: Path, place: Place, license: str | None = None) -> dict[str, bytes | Path]:
    """Return what is pushed of a run, by name: a file, or what is written anew.

    Raises:
        UserError: if there is no finished run.
    """
    if not (out / CONFIG_FILE).is_file():
        raise UserError(f"{out} holds no run: there is no {CONFIG_FILE} in it")
    if not (out / MODEL_FILE).is_file():
        raise UserError(f"the run in {out} is not finished: there is no {MODEL_FILE} in it; go on with --resume")
    see_that_it_is_plain(out)
    recipe = recipe_of(out / MODEL_FILE)
    settings = load_config(out / CONFIG_FILE).dump()
    config = placeless({key: value for key, value in settings.items() if key not in WITHOUT_PLACE})
    results = placeless(_without(read_results(out), "command"))
    pictures = {path.name: path for path in sorted(out.glob("*.png")) if PICTURE.fullmatch(path.name)}
    for path in pictures.values():
        _see_that_it_is_a_picture(path)
    written = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    card = _card(place, recipe, written, results, list(pictures), license)
    return {
        CARD_FILE: card.encode(),
        CONFIG_FILE: written.encode(),
        RESULTS_FILE: (json.dumps(results, indent=1) + "\n").encode(),
        MODEL_FILE: out / MODEL_FILE,
        **pictures,
    }


def _see_that_it_is_a_picture(path: Path) -> None:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.verify()
    except Exception as error:  # Pillow raises anything
        raise UserError(f"{path} is no PNG ({type(error).__name__}): remove it, or draw it anew by evaluate") from None


def _without(value: Any, key: str) -> Any:
    """Leave a key out, wherever it is."""
    if isinstance(value, dict):
        return {name: _without(part, key) for name, part in value.items() if name != key}
    return [_without(part, key) for part in value] if isinstance(value, list) else value


def _card(
    place: Place,
    recipe: Mapping[str, Any],
    config: str,
    results: Mapping[str, Any],
    pictures: list[str],
    license: str | None,
) -> str:
    """Write the model card: what it is, pictures, use, results, config, licence."""
    from huggingface_hub import EvalResult, ModelCardData

    variant, dataset = str(recipe["model"]["name"]), str(results.get("dataset") or "data of one's own")
    metrics = {name: row for name, row in results.get("metrics", {}).items() if math.isfinite(row["value"])}
    found = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=_word(dataset),
            dataset_name=dataset,
            metric_type=_word(name),
            metric_name=name,
            metric_value=row["value"],
        )
        for name, row in metrics.items()
    ]
    data = ModelCardData(
        license=license,
        library_name="vae-zoo",
        tags=["vae", "variational-autoencoder", _word(variant)],
        pipeline_tag="unconditional-image-generation",
        model_name=_word(variant),
        eval_results=found or None,
    )
    image = recipe["image"]
    size = f"{image['channels']} x {image['height']} x {image['width']}"
    facts = [f"Images {size}", f"{results['parameters']:,} parameters" if results.get("parameters") else ""]
    facts += [f"latent of {results['latent_dim']} dimensions" if results.get("latent_dim") else ""]
    facts += [f"seed {results['seed']}" if "seed" in results else ""]
    about = "" if recipe["plugins"] else f": {document(variant).title}"
    rows = [
        f"| {_cell(name)} | {row['value']:.6g} | {_cell(row.get('unit', ''))} | {_cell(row.get('protocol', ''))} |"
        for name, row in sorted(metrics.items())
    ]
    plugins = ", ".join(f"`{_cell(n)}`" + (f" (sha256 {_cell(d)})" if d else "") for n, d in recipe["plugins"].items())
    loaded = f'zoo.load("{place}"' + (', plugins=["…"])' if plugins else ")")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", config)), default=2))
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_cell(results.get('title') or variant)} on {_cell(dataset)}",
        f"A model of the VAE zoo, variant `{_cell(variant)}`{_cell(about)}\n\n{', '.join(filter(None, facts))}.",
        *(f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in SHOWN if name in pictures),
        "## Use",
        "```sh\npip install 'vae-zoo[hub]'\n```",
        f"```python\nimport zoo\n\nmodel = {loaded}\nimages = model.sample(16)  # in [0, 1]\n```",
        f"It was made with the plugin {plugins}, which is not here." if plugins else "",
        "Nothing here is code, and loading it runs none.",
        "## Results",
        "On the test split. Numbers are comparable where their protocols agree." if rows else "Nothing was measured.",
        "\n".join(["| metric | value | unit | protocol |", "| --- | --- | --- | --- |", *rows]) if rows else "",
        "## Config",
        f"{fence}yaml\n{config.rstrip()}\n{fence}",
        "## Licence",
        f"The weights: {_cell(license)}." if license else "None is stated for the weights.",
        "The data that they were trained on has terms of its own.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _word(text: str) -> str:
    """Write a name as the hub's tags are."""
    return re.sub(r"[^\w.-]+", "-", text)[:60]


def _cell(text: object) -> str:
    """Write a text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([|<\[\]`*])", r"\\\1", printable(text))


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("the hub needs the library huggingface_hub: pip install 'vae-zoo[hub]'") from None
    return HfApi(
        endpoint=os.environ.get("HF_ENDPOINT"), library_name="vae-zoo"
    )  # also where it was set after an import


@contextmanager
def _telling(place: Place, api: HfApi, home: Path | None = None) -> Iterator[None]:
    """Turn what the hub and its library say into a sentence.

    Raises:
        UserError: for whatever goes wrong within it.
    """
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(
            f"{place} is for those its owner lets in: ask at {api.endpoint}/{place.repository}, then `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"hf://{place.repository} has no revision {place.revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{place}: there is no such repository, or you may not see it: check the name, or `hf auth login`"
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UserError(f"{place}: the hub does not let you: `hf auth login` with a token that may") from None
        raise UserError(f"{place}: the hub answers {status}: {_line(error)}") from None
    except Exception as error:
        kinds = {cls.__name__ for cls in type(error).__mro__}
        if not kinds & UNREACHED and not isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(f"{place}: {type(error).__name__}: {_line(error)}") from error
        commits = sorted(folder.name for folder in home.glob("[0-9a-f]*")) if home is not None else []
        kept = f"; kept from before is hf://{place.repository}@{commits[-1]}" if commits else ""
        raise UserError(f"{place}: the hub at {api.endpoint} can't be reached ({_line(error)}){kept}") from None


def _line(error: Exception) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
