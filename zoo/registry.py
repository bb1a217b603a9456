"""Names for variants, nets, data sets and metrics: one small class serves them all. Imports no torch."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from zoo.errors import PluginError, UserError, crash, place

T = TypeVar("T", bound=Callable[..., Any])

ENTRY_POINT_GROUP = "vae_zoo.plugins"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'? Known: a, b" for an unknown word; the question is left out if nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return (f" Did you mean {near[0]!r}?" if near else "") + f" Known: {', '.join(names) or 'none'}"


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a name stands for: a class or function, the defaults the name brings along, and one line about it."""

    name: str
    target: T
    about: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The source file of the target, for error messages."""
        module = self.target.__module__
        return getattr(sys.modules.get(module), "__file__", None) or module


class Registry(Generic[T]):
    """A dictionary from names to entries that explains itself when a name is missing or taken.

    Args:
        kind: What the entries are, for messages: "variant", "data set".
        package: The package whose modules register the built-in entries; imported at the first look-up.
        check: Called with each newcomer; raises `UserError` if it can't be registered.
        decorator: What `register` is called where authors meet it, for messages.
        given: What every target is called with by position; all else that it takes are options, given by name. None:
            not known.
    """

    def __init__(
        self,
        kind: str,
        package: str | None = None,
        check: Callable[[str, T], None] | None = None,
        decorator: str = "register",
        given: tuple[str, ...] | None = None,
    ) -> None:
        self.kind = kind
        self.package = package
        self.check = check
        self.decorator = decorator
        self.given = given
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, about: str = "", **defaults: Any) -> Callable[[T], T]:
        """Return a decorator that gives `name` to a class or function.

        One target may bear several names, each with defaults of its own.

        Args:
            name: What users type.
            about: One line for listings.
            **defaults: Keyword arguments that this name passes to its target unless the caller says otherwise.

        Raises:
            UserError: if there is no name, the target does not fit, or another target bears the name already.
        """
        if not isinstance(name, str):
            what = getattr(name, "__name__", repr(name))
            where = f" ({place(name)})" if callable(name) else ""
            raise PluginError(
                f"@{self.decorator} has no name for {what}{where}: write @{self.decorator}({what.lower()!r}) above it"
            )

        def decorate(target: T) -> T:
            if self.check is not None:
                self.check(name, target)
            if self.given is not None:
                check_signature(self.kind, target, self.given)
            entry = Entry(name, target, about, defaults)
            old = self._entries.get(name)
            # A notebook cell run twice, or one file reached by path and by module, defines the same thing again.
            if old is not None and not _same_definition(old, entry):
                raise UserError(
                    f"the {self.kind} name {name!r} is taken twice, by {old.file} and {entry.file}: rename one of them"
                )
            self._entries[name] = entry
            return target

        return decorate

    def lookup(self, name: str) -> Entry[T]:
        """Return the entry called `name`; installed plugins are asked only if nothing else has the name.

        Raises:
            UserError: if no entry has the name; says which one is near.
        """
        self._import_builtins()
        if name not in self._entries:
            load_installed_plugins()
        if name not in self._entries:
            raise UserError(f"no {self.kind} named {name!r}.{did_you_mean(name, self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry[T]]:
        self._import_builtins()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __contains__(self, name: str) -> bool:
        self._import_builtins()
        return name in self._entries

    def _import_builtins(self) -> None:
        if self.package is None:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)


def constructors(target: Callable[..., Any]) -> Iterator[tuple[Callable[..., Any], list[inspect.Parameter]]]:
    """Yield what a call's keywords reach, with its parameters: a function, or `__init__` of a class and its parents.

    A parent's is reached as long as all before it take `**options`. `self` is left out.
    """
    if not isinstance(target, type):
        yield target, list(inspect.signature(target).parameters.values())
        return
    for cls in target.__mro__:
        if "__init__" in vars(cls):
            function = vars(cls)["__init__"]
            parameters = list(inspect.signature(function).parameters.values())[1:]
            yield function, parameters
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                return


def check_signature(kind: str, target: Callable[..., Any], given: tuple[str, ...]) -> None:
    """See that a target takes by position what it is given, and everything else by name.

    Raises:
        PluginError: one sentence that names the function and its place.
    """
    for number, (function, parameters) in enumerate(constructors(target)):
        if number and function.__module__ != target.__module__:
            return  # a parent from elsewhere is another author's
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        what = f"{function.__qualname__} ({place(function)})"
        if len(positional) > len(given):
            option = positional[len(given)]
            before = ", ".join(p.name for p in positional[: len(given)])
            raise PluginError(
                f"{what} takes the option {option.name!r} by position, and options are given by name: write `*` before "
                f"it, as in ({before}, *, {option})"
            )
        if not number and len(positional) < len(given) and all(p.kind is not p.VAR_POSITIONAL for p in parameters):
            raise PluginError(
                f"{what} takes ({', '.join(map(str, parameters))}), but a {kind} is called with ({', '.join(given)})"
            )


def _same_definition(a: Entry[Any], b: Entry[Any]) -> bool:
    if a.target is b.target:
        return True
    same_name = a.target.__qualname__ == b.target.__qualname__
    return same_name and Path(a.file).resolve() == Path(b.file).resolve()


def load_plugin(plugin: str, base: Path | None = None) -> ModuleType:
    """Import a plugin: a file (`my_vae.py`, counted from `base`) or a module (`my_pkg.my_vae`).

    Raises:
        UserError: if there is no such file or module, or it can't be imported; what it raised is the cause.
    """
    try:
        return _load(plugin, base)
    except UserError:
        raise
    except Exception as error:  # somebody else's code may raise anything
        raise crash(f"plugin {plugin!r}", error) from error


def find_module(plugin: str) -> ModuleSpec:
    """Return where a module comes from; the packages that it lies in are imported.

    Raises:
        UserError: if there is no such module.
    """
    try:
        found = None if plugin[:1] in ("", ".") else importlib.util.find_spec(plugin)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(f"plugin {plugin!r}: no such module; a file's name would end in .py")
    return found


def _load(plugin: str, base: Path | None) -> ModuleType:
    if not plugin.endswith(".py"):
        find_module(plugin)
        return importlib.import_module(plugin)
    path = ((base or Path.cwd()) / plugin).resolve()
    if not os.path.isfile(path):
        raise UserError(f"plugin {plugin!r}: there is no file {path}")
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) and Path(str(module.__file__)).resolve() == path:
            return module
    name = f"vae_zoo_plugin_{path.stem}_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_installed_plugins() -> None:
    """Import every installed package's entry points of the group `vae_zoo.plugins`; name the ones that fail."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # somebody else's package may raise anything, and must not stop this run
            print(
                f"warning: the installed plugin {point.name!r} ({point.value}) failed to load: {error}", file=sys.stderr
            )
