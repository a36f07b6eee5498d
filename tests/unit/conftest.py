"""Unit tests reach no network and no store but their own."""

import ipaddress
import socket

import pytest

from sparsetune.tracking.client import prepare


class NetworkBlockedError(OSError):
    """A unit test tried to reach another machine."""


def _is_own(address):
    if not isinstance(address, tuple):  # AF_UNIX: a path
        return True
    host = str(address[0])
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_numeric(host):
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return True


def _guarded(connect):
    def connect_to_own(self, address):
        if not _is_own(address):
            raise NetworkBlockedError(f"unit tests reach no network, got {address!r}")
        return connect(self, address)

    return connect_to_own


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
    look_up = socket.getaddrinfo

    def look_up_own(host, *arguments, **options):
        if host is not None and not _is_numeric(host) and not _is_own((host,)):
            raise NetworkBlockedError(f"unit tests look up no names, got {host!r}")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_own)


@pytest.fixture(autouse=True)
def _own_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory):
    """MLflow's database with schema: making one takes a second, copying it nothing."""
    folder = tmp_path_factory.mktemp("template")
    prepare(folder, "template", [])
    return folder / "mlflow.db"
