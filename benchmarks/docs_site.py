"""Hooks of the documentation's site, see mkdocs.yml: what lies outside of docs/ is part of it, and is linked to.

A page keeps the links that work where its file lies in the repository: `../../benchmarks/…` of docs/variants/beta.md.
In the site docs/ is the root, and the files beside it lie within it: a link is resolved in the repository, and told
anew from there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")  # and all of benchmarks/results that is linked to
RESULTS = ("*.md", "*.png", "*.webp", "*.yaml", "*.html", "*.csv", "*.json")
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"^```.*?^```$", re.M | re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the variants' pages, and that of papers where there is one."""
    docs = Path(config.docs_dir)
    for section in config.nav or []:
        if "Variants" in section:
            names = sorted(path.stem for path in (docs / "variants").glob("*.md") if path.stem != "README")
            section["Variants"] = ["variants/README.md", *({name: f"variants/{name}.md"} for name in names)]
        if "Results" in section and (docs / "papers.md").is_file():
            section["Results"].append({"Papers": "papers.md"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies beside docs/."""
    results = ROOT / "benchmarks" / "results"
    for path in [*(ROOT / name for name in PAGES), *(p for kind in RESULTS for p in sorted(results.rglob(kind)))]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Follow the links of a page from where its file lies in the repository, if they lead into the site."""
    here = PurePosixPath(page.file.src_uri)
    in_docs = Path(page.file.abs_src_path).is_relative_to(config.docs_dir)
    in_repository = PurePosixPath("docs") / here if in_docs else here

    def follow(link: re.Match[str]) -> str:
        target = os.path.normpath(in_repository.parent / link[2])
        within = target.removeprefix("docs/")
        if files.get_file_from_path(within) is None:
            return link[0]
        return f"{link[1]}{os.path.relpath(within, here.parent)}{link[3]}"

    # What stands in a block of code is no link.
    blocks, texts = CODE.findall(markdown), CODE.split(markdown)
    followed = [LINK.sub(follow, text) for text in texts]
    return "".join(text + block for text, block in zip(followed, [*blocks, ""], strict=True))
