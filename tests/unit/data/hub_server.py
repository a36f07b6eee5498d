"""A server on this machine that answers as the hub does, and misbehaves when told to."""

import contextlib
import hashlib
import json
import os
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

    The path is a file's in its repository, or what follows ``/api/``.

    A fault is a status, ``("cut", n)``, ``("hold", n)`` (n bytes, then nothing until the end),
    ``"wrong"`` (a byte is another) or ``"whole"`` (the range is ignored).
    """

    def __init__(self):
        self.repositories, self.faults, self.asked, self.codes = {}, {}, [], {}
        self.commit, self.over = COMMIT, threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def downloads(self):
        """Paths and ranges of the files that were asked for."""
        return [(path.split(f"/{self.commit}/")[1], part) for path, part in self.asked
                if "/resolve/" in path]  # fmt: skip

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
            path, part = unquote(self.path.split("?")[0]), self.headers.get("Range")
            hub.asked.append((path, part))
            status, body = hub.answer(path)
            name = path.rpartition(f"/resolve/{hub.commit}/")[2]
            waiting = hub.faults.get(name.rpartition("/api/")[2], [])
            fault = waiting.pop(0) if waiting else None
            if isinstance(fault, int):
                status, body = fault, b"{}"
            elif fault == "wrong":
                body = bytes([body[0] ^ 1]) + body[1:]
            elif part and fault != "whole" and status == 200:
                status, body = 206, body[int(part[6:-1]) :]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            code = next((c for name, c in hub.codes.items() if name in path), None)
            if code and status >= 400:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.send_body(body, fault)

        def send_body(self, body, fault):
            if not isinstance(fault, tuple):
                self.wfile.write(body)
                return
            self.wfile.write(body[: fault[1]])
            self.wfile.flush()
            if fault[0] == "hold":
                hub.over.wait(60)
            self.close_connection = True

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
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    assets = str(folder / "hub" / "assets")
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", assets)
    monkeypatch.setattr("time.sleep", lambda _: None)
    try:
        yield hub
    finally:
        hub.close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with served(monkeypatch, tmp_path) as one:
        yield one


def environment(hub, folder):
    """What another process needs to talk to the same hub with the same caches."""
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
