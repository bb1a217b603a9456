"""The documentation's site: built without a warning, and no link in it leads nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.runs import ROOT


class Links(HTMLParser):
    """Where a page leads, and which places of its own can be led to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        self.targets += [value for name in ("href", "src") if (value := found.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'vae-zoo[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet())
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def quiet() -> dict[str, str]:
    return os.environ | {"NO_MKDOCS_2_WARNING": "1"}


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if "benchmarks/results" not in page.as_posix()}
    assert len(pages) > 50
    lost = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target.startswith("/"):  # the page of errors counts from the root
                continue
            place = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = place / "index.html" if place.is_dir() else place
            known = pages[place].anchors if place in pages else None
            if not place.is_file() or (parts.fragment and known is not None and unquote(parts.fragment) not in known):
                lost.append(f"{page.relative_to(site)}: {target}")
    assert not lost


def test_every_built_in_name_of_the_package_is_in_the_api(site: Path) -> None:
    import zoo

    text = " ".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    assert [name for name in zoo.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("index.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(
            r"<(?:script|img|link)[^>]+(?:src|href)=\"?https?://(?!localhost)[^>]*(?:\.js|\.css|\.png|\.woff)", text
        )
