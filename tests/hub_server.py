"""What of Hugging Face's hub a run is pushed to and fetched from, on this machine: repositories are dictionaries."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits by their hash, each a dictionary of files; the newest is "main"."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def at(self, revision: str) -> str | None:
        newest = list(self.commits)[-1]
        return newest if revision == "main" else revision if revision in self.commits else None


class Hub(ThreadingHTTPServer):
    """It has repositories, and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.sizes: dict[str, int] = {}  # of files, as it claims; else as they are
        self.token = "hf_local"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "models"]:
            repository = self._seen("/".join(parts[2:4]))
            if repository is None:
                return
            what, revision = (parts[4], parts[5]) if len(parts) > 4 else ("revision", "main")
            sha = repository.at(revision)
            if sha is None:
                self._refuse(404, "RevisionNotFound")
            elif what == "tree":
                self._send(
                    [
                        {"type": "file", "path": name, "size": self._size(name, content), "oid": "0" * 40}
                        for name, content in repository.commits[sha].items()
                    ]
                )
            else:
                self._send({"id": "/".join(parts[2:4]), "sha": sha, "private": repository.private})
        elif len(parts) > 4 and parts[2] == "resolve":
            repository = self._seen("/".join(parts[:2]))
            if repository is not None:
                content = repository.commits[str(repository.at(parts[3]))].get("/".join(parts[4:]))
                if content is None:
                    self._refuse(404, "EntryNotFound")
                else:
                    etag = hashlib.sha1(content).hexdigest()
                    self._send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": parts[3]})
        else:
            self._refuse(404, "RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        parts = self._parts()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._refuse(401, "")
        if parts == ["api", "validate-yaml"]:
            return self._send({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "somebody":
                return self._refuse(403, "")
            made = Repository(private=asked.get("visibility") == "private")
            made.commit({".gitattributes": b""})
            self.server.repositories.setdefault(name, made)
            return self._send({"url": f"{self.server.endpoint}/{name}"})
        repository = self.server.repositories["/".join(parts[2:4])]
        if parts[4] == "preupload":
            files = json.loads(body)["files"]
            return self._send(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        files = dict(repository.commits[str(repository.at("main"))])
        for line in body.splitlines():
            step = json.loads(line)
            if step["key"] == "file":
                files[step["value"]["path"]] = base64.b64decode(step["value"]["content"])
            elif step["key"] == "deletedFile":
                del files[step["value"]["path"]]
        sha = repository.commit(files)
        url = f"{self.server.endpoint}/{parts[2]}/{parts[3]}/commit/{sha}"
        self._send({"commitUrl": url, "commitOid": sha})

    def _parts(self) -> list[str]:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def _seen(self, name: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        may = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if repository is None or (repository.private and not may):
            self._refuse(404 if may else 401, "RepoNotFound")
            return None
        if repository.gated:
            self._refuse(403, "GatedRepo")
            return None
        return repository

    def _size(self, name: str, content: bytes) -> int:
        return self.server.sizes.get(name, len(content))

    def _refuse(self, status: int, code: str) -> None:
        self._send({"error": "no"}, {"X-Error-Code": code} if code else {}, status)

    def _send(self, content: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
