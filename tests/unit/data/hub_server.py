"""A server on this machine that answers as the hub does, and misbehaves when told to."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

COMMIT = "0123456789" * 4
_LARGE = (".parquet", ".safetensors")


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """Repositories, what was asked, and faults: path -> list of what the next GETs meet.

    The path is a file's in its repository; a fault is a status, or ``("cut", n)``: n bytes, then
    the end of the connection. ``codes``: repository -> why all of it is refused.
    """

    def __init__(self):
        self.repositories, self.faults, self.asked, self.codes = {}, {}, [], {}
        self.commit = COMMIT
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def downloads(self):
        """Paths of the files that were asked for."""
        return [path.split(f"/{self.commit}/")[1] for path in self.asked if "/resolve/" in path]

    def answer(self, path):
        """Status and content of what is at a path."""
        for (kind, name), files in self.repositories.items():
            api, raw = f"/api/{kind}s/{name}", "" if kind == "model" else f"/{kind}s"
            if path.startswith((f"{api}/", f"{raw}/{name}/")) and name in self.codes:
                return 401, b"{}"
            if path == f"{api}/revision/main":
                return 200, json.dumps({"id": name, "sha": self.commit}).encode()
            if path == f"{api}/tree/{self.commit}":
                return 200, json.dumps([_listed(*one) for one in files.items()]).encode()
            found = path.removeprefix(f"{raw}/{name}/resolve/{self.commit}/")
            if found in files:
                return 200, files[found]
        return 404, b"{}"


def _listed(path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if path.endswith(_LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        entry.update(oid="0" * 40, lfs={"oid": sha256, "size": len(content), "pointerSize": 9})
    return entry


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path, fault = unquote(self.path.split("?")[0]), None
            status, body = hub.answer(path)
            if self.command == "GET":
                hub.asked.append(path)
                name = path.rpartition(f"/resolve/{hub.commit}/")[2]
                waiting = hub.faults.get(name, [])
                fault = waiting.pop(0) if waiting else None
            if isinstance(fault, int):
                status, body = fault, b"{}"
            part = self.headers.get("Range")
            etag = hashlib.sha256(body).hexdigest()
            if part and status == 200:
                status, body = 206, body[int(part[6:-1]) :]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", hub.commit)
            code = next((c for name, c in hub.codes.items() if name in path), None)
            if code and status >= 400:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: fault[1]] if isinstance(fault, tuple) else body)
                self.close_connection = isinstance(fault, tuple)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def served(monkeypatch, folder):
    """A hub that the library in this process talks to; its caches are below ``folder``."""
    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda _: None)
    try:
        yield hub
    finally:
        hub.close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with served(monkeypatch, tmp_path) as one:
        yield one
