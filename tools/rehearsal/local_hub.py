"""A hub on this machine: the part of the Hugging Face hub's protocol that downloads use.

    with local_hub(Path("build/rehearsal/hub")) as url:
        ...                         # for processes that are started with HF_ENDPOINT=url

Repositories are folders, KIND/OWNER/NAME/COMMIT/FILES with KIND `models` or `datasets` and a commit of 40 hex
digits; `main` is the one that was written last. Files are sent whole or, to those who resume, in part.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")


class Missing(Exception):
    """What is not there, by the hub's own name for it."""


@cache
def content_hash(path: Path, modified: int) -> str:
    """SHA-256 of a file, computed once for each time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_of(folder: Path) -> str:
    """A commit that follows from what is in a folder: equal files, equal commit."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [f"{path.relative_to(folder).as_posix()} {etag(path)}\n" for path in files]
    return hashlib.sha1("".join(named).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one client; `root` holds the repositories."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *given: Any, root: Path) -> None:
        self.root = root
        super().__init__(*given)

    def do_HEAD(self) -> None:
        """Size, hash and commit of a file."""
        self.answer()

    def do_GET(self) -> None:
        """A file, or facts about a repository."""
        self.answer()

    def do_POST(self) -> None:
        """Facts about the paths that are asked for."""
        self.answer()

    def answer(self) -> None:
        """Send what the address names, or why it is not there."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        try:
            if found := FILE.fullmatch(path):
                kind, name, revision, file = found.groups()
                self.send_file(self.repository(kind or "models", name, revision), file)
            elif found := API.fullmatch(path):
                self.send_json(self.facts(body, *found.groups()))
            else:
                raise Missing("EntryNotFound")
        except Missing as error:
            self.send(404, b"", {"X-Error-Code": str(error), "X-Error-Message": f"{error}: {path}"})

    def repository(self, kind: str, name: str, revision: str) -> Path:
        """The folder of a revision: a commit, or the newest one. Raises Missing."""
        place = self.root / kind / name
        if ".." in name or not place.is_dir():
            raise Missing("RepoNotFound")
        commits = sorted(place.iterdir(), key=lambda commit: commit.stat().st_mtime)
        if revision == "main":
            return commits[-1]
        if place / revision not in commits:
            raise Missing("RevisionNotFound")
        return place / revision

    def facts(
        self, body: bytes, kind: str, name: str, asked: str | None, revision: str | None, folder: str | None
    ) -> Any:
        """What the hub's API says of a repository, of its files, or of some of them."""
        place = self.repository(kind, name, revision or "main")
        if asked in (None, "revision"):
            files = [path for path in sorted(place.rglob("*")) if path.is_file()]
            return {
                "_id": place.name[:24], "id": name, "modelId": name, "author": name.split("/")[0],
                "sha": place.name, "lastModified": "2025-01-01T00:00:00.000Z", "private": False,
                "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": path.relative_to(place).as_posix()} for path in files],
            }  # fmt: skip
        if asked == "paths-info":
            form = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            return [self.entry(place, place / path) for path in form["paths"] if (place / path).exists()]
        start = place / (folder or "")
        if not start.is_dir():
            raise Missing("EntryNotFound")
        below = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("1", "true")
        return [self.entry(place, path) for path in sorted(start.rglob("*") if below else start.iterdir())]

    def entry(self, place: Path, path: Path) -> dict[str, Any]:
        """A file or folder as the hub lists it."""
        name = path.relative_to(place).as_posix()
        if path.is_file():
            return {"type": "file", "oid": etag(path)[:40], "size": path.stat().st_size, "path": name}
        oid = hashlib.sha1(name.encode()).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": name}

    def send_json(self, value: Any) -> None:
        """Send a value as JSON."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, place: Path, name: str) -> None:
        """Send a file, or from where the client says that it has it."""
        path = (place / name).resolve()
        if not (path.is_file() and path.is_relative_to(place.resolve())):
            raise Missing("EntryNotFound")
        size = path.stat().st_size
        headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": place.name, "Accept-Ranges": "bytes",
                   "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)}  # fmt: skip
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(part[1]), int(part[2] or size - 1)) if part else (0, size - 1)
        last = min(last, size - 1)
        if part and first > last:
            return self.send(416, b"", {"Content-Range": f"bytes */{size}"})
        if part:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.head(206 if part else 200, last - first + 1, headers)
        if self.command != "HEAD":
            with path.open("rb") as file:
                file.seek(first)
                if last == size - 1:
                    copyfileobj(file, self.wfile)
                else:
                    self.wfile.write(file.read(last - first + 1))
        return None

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        self.head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        """Send the status and headers of an answer of so many bytes."""
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing: clients tell what they miss."""


def etag(path: Path) -> str:
    """What changes with a file's content."""
    return content_hash(path, path.stat().st_mtime_ns)


@contextmanager
def local_hub(root: Path, port: int = 0) -> Iterator[str]:
    """Serve the repositories below `root` on this machine alone, on a free port, until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, root=root)) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
