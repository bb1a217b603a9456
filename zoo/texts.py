"""Texts from elsewhere (names, titles, notes, commands), before they are shown to anybody."""

from __future__ import annotations

import re
import shlex
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
ROOT = r"file:/{1,3}|(?<![\w./\\])(?:~[\w.-]*[/\\]|[A-Za-z]:[/\\]|\\\\|/)"
PART = r"[^\s/\\'\"=,:;()\[\]{}<>]+"
WHOLE_PLACE = re.compile(rf"(?:{ROOT})[^\n]*", re.IGNORECASE)
# A URL, which stays as it is; or a path that begins at a root, up to its last part. Folders' names may hold spaces.
URL_OR_PLACE = re.compile(
    rf"\b(?!file:)[a-z][a-z0-9+.-]{0, 20}://\S*|(?:{ROOT})(?P<folders>(?:{PART}(?: {PART})*[/\\]+)*)(?={PART}|\s|$)",
    re.IGNORECASE,
)


def printable(text: object) -> str:
    """Write what is not shown by itself (control characters, line breaks, bytes that are no UTF-8) by its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def csv_cell(value: Any) -> Any:
    """Have a text that a spreadsheet would take for a formula begin with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def without_places(text: str) -> str:
    """Leave of each absolute path its last part: where things lie on a machine is nobody else's business."""
    return URL_OR_PLACE.sub(lambda found: "…/" if found["folders"] else found[0], text)


def placeless(value: Any) -> Any:
    """Do the same to all texts in nested lists and mappings; a text that is a path as a whole may hold anything."""
    if isinstance(value, dict):
        return {key: placeless(part) for key, part in value.items()}
    if isinstance(value, list):
        return [placeless(part) for part in value]
    if isinstance(value, str):
        return _last_part(value) if WHOLE_PLACE.fullmatch(value) else without_places(value)
    return value


def placeless_command(text: str) -> str:
    """Do the same to a command, word by word."""
    try:
        words = shlex.split(text)
    except ValueError:
        return without_places(text)
    done = []
    for word in words:
        key, equals, value = word.rpartition("=")
        done.append(f"{key}{equals}{f'…/{_last_part(value)}' if WHOLE_PLACE.fullmatch(value) else value}")
    return " ".join(word if re.fullmatch(r"[\w@%+=:,./…\[\]-]+", word) else shlex.quote(word) for word in done)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
