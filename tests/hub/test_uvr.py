"""UVR's tables of parameters by the hash of a file's end."""

import hashlib
import json
from pathlib import Path

import pytest

from stemsplit.hub import uvr


@pytest.mark.parametrize("size", [0, 1, uvr.TAIL - 1, uvr.TAIL, uvr.TAIL + 1, uvr.TAIL + 4097])
def test_only_the_end_of_a_file_is_hashed(size: int, tmp_path: Path) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "net.onnx").write_bytes(content)
    assert (
        uvr.tail_md5(tmp_path / "net.onnx") == hashlib.md5(content[-uvr.TAIL :] if size else b"").hexdigest()
    )


def test_an_entry_is_found_by_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    assert uvr.entry(path, "mdx") is None
    known = json.loads(Path(uvr.__file__).with_name("uvr.json").read_text())
    digest, parameters = next(iter(known["mdx"].items()))
    monkeypatch.setattr(uvr, "tail_md5", lambda path: digest)
    assert uvr.entry(path, "mdx") == parameters and uvr.entry(path, "vr") is None


def test_the_tables_have_what_the_networks_need() -> None:
    known = json.loads(Path(uvr.__file__).with_name("uvr.json").read_text())
    assert (len(known["mdx"]), len(known["vr"])) == (86, 32)
    for parameters in known["mdx"].values():
        assert "config_yaml" in parameters or {"mdx_dim_f_set", "mdx_n_fft_scale_set", "primary_stem"} <= set(
            parameters
        )
    for parameters in known["vr"].values():
        assert {"vr_model_param", "primary_stem"} <= set(parameters)
