"""Other hosts, keys and ports."""

import socket
from pathlib import Path
from typing import Any

import pytest

from stemsplit.errors import SettingsError
from stemsplit.web import server
from stemsplit.web.guard import Guard
from tests.web.conftest import KEY, served


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com", "::"])
def test_another_host_demands_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match=f"--host {host}: needs --key"):
        server.serve([], tmp_path, {}, host=host, port=0, key=None, ready=lambda *_: None)


@pytest.mark.parametrize("key", ["", "short", "with space in it", "slash/slash/slash", "ümlaut-ümlaut"])
def test_a_key_that_is_no_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match="--key: must be 8 or more"):
        server.serve([], tmp_path, {}, host="127.0.0.1", port=0, key=key, ready=lambda *_: None)


def test_a_server_for_all_addresses_prints_one_that_answers(tmp_path: Path) -> None:
    with served(tmp_path, host="0.0.0.0") as client:
        assert client.address.startswith("http://127.0.0.1:") and client("GET", "").status == 200


def test_a_server_for_other_machines_goes_by_addresses_not_by_names() -> None:
    guard: Any = Guard(lambda *_: None, KEY, "0.0.0.0", 8000)  # type: ignore[arg-type,return-value]
    assert guard._is_own("192.168.1.5:8000") and guard._is_own("[fe80::1]:8000")
    assert not guard._is_own("evil.example:8000") and not guard._is_own("192.168.1.5:80")


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}: Address already in use"):
            server.serve([], tmp_path, {}, host="127.0.0.1", port=port, key=None, ready=lambda *_: None)
