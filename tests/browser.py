"""Headless Chromium, driven through chromedriver by the W3C protocol: its few calls need no library."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-sync", "--disable-component-update", "--hide-scrollbars"),
)
DEADLINE = 20.0  # seconds that a page has to become what is waited for


class Browser:
    """One window."""

    def __init__(self, profile: Path) -> None:
        binary = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
        driver = shutil.which("chromedriver")
        if binary is None or driver is None:
            pytest.skip("chromium or chromedriver is not installed")
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = next(m for line in self.process.stdout if (m := re.search(r"started successfully on port (\d+)", line)))
        self.base = f"http://127.0.0.1:{found[1]}/session"
        options = {"binary": binary, "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self._call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.base += f"/{self.session}"

    def _call(self, path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int = 900, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=scheme)

    def go(self, url: str) -> None:
        self._call("/url", {"url": "about:blank"})  # else another fragment of the same page is no new page
        self._call("/url", {"url": url})
        self.until("return document.readyState === 'complete' && document.querySelectorAll('tbody tr').length > 0")

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: Any) -> None:
        end = time.monotonic() + DEADLINE
        while not self.run(script, *arguments):
            assert time.monotonic() < end, f"the page never came to: {script}"
            time.sleep(0.05)

    def said(self) -> list[str]:
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def picture(self, path: Path) -> None:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))

    def close(self) -> None:
        try:
            self._call("", None, "DELETE")
        finally:
            self.process.terminate()
            self.process.wait()
