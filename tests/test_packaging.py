"""What is said of the package in more than one place agrees."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.runs import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_version_is_one() -> None:
    (version,) = re.findall(r'^version = "([^"]+)"', PROJECT, re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert (citation["version"], newest) == (version, version)
    assert citation["license"] in PROJECT


def test_all_that_is_needed_is_pinned() -> None:
    pinned = {line.split("==")[0].strip() for line in Path(ROOT, "constraints.txt").read_text().splitlines()}
    block = PROJECT.split("dependencies = [")[1].split("]\n\n[project.scripts]")[0]
    needed = {re.split(r"[\[><=]", name)[0] for name in re.findall(r'"([^"]+)"', block)}
    assert len(needed) >= 10 and {name.lower() for name in needed} <= pinned


def test_the_readme_begins_with_a_picture_and_its_files_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", text.split("## ")[0])
    assert picture and (ROOT / picture[1]).stat().st_size < 300_000
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []
