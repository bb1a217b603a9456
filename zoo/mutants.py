"""Plant errors in a variant's file, one at a time, and see whether its tests notice: `run.py check --mutate FILE`.

The file itself is never written: a mutant lives in a process of its own, which imports it in the file's place.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files import read_text

MOST_SECONDS = 300  # a mutant that never ends is seen, too
AT_ONCE = 2
REDUCTIONS = {"sum": "mean", "mean": "sum"}
DRAWS = ("reparameterize", "gaussian_sample")
PAIRS = ("kl", "kl_per_dim", "nll", "log_prob")  # how functions end whose two arguments are easily swapped


@dataclass(frozen=True)
class Mutant:
    """One planted error.

    Attributes:
        kind: "sign turned", "term dropped", …
        line: Where, from 1.
        before: The piece of source that is replaced.
        after: By what.
        start: Where `before` starts, in bytes of the source in UTF-8.
    """

    kind: str
    line: int
    before: str
    after: str
    start: int

    def apply(self, source: str) -> str:
        """Return the source with the error in it."""
        whole, before = source.encode(), self.before.encode()
        return (whole[: self.start] + f"({self.after})".encode() + whole[self.start + len(before) :]).decode()

    def __str__(self) -> str:
        before, after = (re.sub(r"\s+", " ", text) for text in (self.before, self.after))
        return f"line {self.line}, {self.kind}: {before} -> {after}"


def mutants(source: str) -> list[Mutant]:
    """Return the errors that can be planted in the methods and functions of a file, but for `__init__`."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if function.name == "__init__":
            continue
        for node in (node for statement in function.body for node in ast.walk(statement)):
            if not isinstance(node, ast.expr):
                continue
            for kind, after in _errors(node):
                before = ast.get_source_segment(source, node)
                assert before is not None
                found.append(Mutant(kind, node.lineno, before, after, starts[node.lineno - 1] + node.col_offset))
    return sorted(dict.fromkeys(found), key=lambda mutant: (mutant.line, mutant.start))


def _errors(node: ast.expr) -> Iterator[tuple[str, str]]:
    """Yield what an expression may be mistaken for: the kind of the error, and the source."""
    text = ast.unparse(node)
    if isinstance(node, ast.BinOp):
        left, right = ast.unparse(node.left), ast.unparse(node.right)
        if isinstance(node.op, ast.Add | ast.Sub):
            sign = "+" if isinstance(node.op, ast.Sub) else "-"
            yield "sign turned", f"{left} {sign} ({right})"
            yield "term dropped", left
            yield "term dropped", right if isinstance(node.op, ast.Add) else f"-({right})"
        elif isinstance(node.op, ast.Mult):
            yield "factor dropped", left
            yield "factor dropped", right
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "sign turned", ast.unparse(node.operand)
    elif isinstance(node, ast.Attribute) and node.attr in ("z", "logits"):
        yield "gradient cut", f"{text}.detach()"
        if node.attr == "z":
            yield "mean for a sample", f"{ast.unparse(node.value)}.mu"
    elif isinstance(node, ast.Call):
        function, arguments = ast.unparse(node.func), [ast.unparse(argument) for argument in node.args]
        name = function.rsplit(".", 1)[-1]
        if isinstance(node.func, ast.Attribute):
            of = ast.unparse(node.func.value)
            if name in REDUCTIONS:
                other = REDUCTIONS[name]
                yield f"{other} for {name}", f"{function.removesuffix(name)}{other}{text.removeprefix(function)}"
                if arguments[:1] in (["0"], ["1"]):
                    yield "wrong axis", f"{function}({', '.join([str(1 - int(arguments[0])), *arguments[1:]])})"
            elif name == "exp":
                yield "logarithm for its number", of
            elif name == "detach":
                yield "gradient let through", of
        if name in DRAWS and arguments:
            yield "mean for a sample", arguments[0]
        if name.endswith(PAIRS) and len(arguments) == len(PAIRS[:2]):
            yield "arguments swapped", f"{function}({arguments[1]}, {arguments[0]})"


def plant(file: Path, names: list[str], options: dict[str, Any], tests: list[Path]) -> bool:
    """Try each mutant of a file, and print which of them the tests see; without tests, the checks of `run.py check`.

    Args:
        file: With the variants.
        names: Of the variants it registers.
        options: Of the variants.
        tests: Files for pytest.

    Returns:
        Whether all were seen.

    Raises:
        UserError: if there is nothing to plant an error in, or the tests fail without any.
    """
    found = mutants(read_text(file))
    if not found:
        raise UserError(f"{file} has no loss to plant an error in")
    judged = "its tests" if tests else "the checks"

    def seen(number: int | None) -> bool:
        task = {"file": str(file), "number": number, "names": names, "options": options, "tests": [*map(str, tests)]}
        command = [sys.executable, "-m", "zoo.mutants", json.dumps(task)]
        try:
            return subprocess.run(command, capture_output=True, timeout=MOST_SECONDS).returncode != 0
        except subprocess.TimeoutExpired:
            return True

    if seen(None):
        raise UserError(f"{judged} fail on {file} as it is, so that no planted error could be told: mend that first")
    unseen = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, caught in zip(found, pool.map(seen, range(len(found))), strict=True):
            print(f"  {'seen  ' if caught else 'UNSEEN'}  {mutant}", flush=True)
            unseen += not caught
    print(f"{judged} see {len(found) - unseen} of {len(found)} planted errors", end="")
    print("; each of the others either changes nothing, or wants a test" if unseen else "")
    return not unseen


def _try(task: dict[str, Any]) -> int:
    """Take a mutant for its file, and run the tests; 0 if they pass."""
    file, number = Path(task["file"]).resolve(), task["number"]
    if number is not None:
        source = read_text(file)
        mutated = mutants(source)[number].apply(source)
        as_usual = SourceFileLoader.get_code

        def get_code(self: SourceFileLoader, fullname: str) -> Any:
            if Path(self.path).resolve() == file:
                return compile(mutated, self.path, "exec")
            return as_usual(self, fullname)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
    if task["tests"]:
        import pytest

        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *task["tests"]]))
    from zoo.base import VARIANTS
    from zoo.registry import load_plugin
    from zoo.testing import check_variant

    for name in task["names"]:
        if name not in VARIANTS:
            load_plugin(str(file))
        check_variant(name, **task["options"])
    return 0


if __name__ == "__main__":
    sys.exit(_try(json.loads(sys.argv[1])))
