"""Files that were saved in place of a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stemsplit import load_model
from stemsplit.errors import CheckpointError
from stemsplit.hub.checkpoints import read_package
from stemsplit.hub.describe import describe_model
from tests.cli.test_stem_names import published

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 84025440\n"
)
PAGES = ("<!DOCTYPE html>\n<html><head>", "\n\n  <html lang=en>", "\ufeff<!doctype HTML>")


@pytest.mark.parametrize("name", ["m.safetensors", "m.th", "m.ckpt", "bag.yaml", "m.pt"])
@pytest.mark.parametrize("work", [load_model, describe_model, read_package])
def test_a_git_lfs_pointer(name: str, work: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(CheckpointError) as caught:
        work(tmp_path / name)
    assert caught.value.reason == f"{tmp_path / name}: a Git LFS pointer, not the file itself"
    assert caught.value.hint == "get the file with: git lfs pull"


def test_a_configuration_that_is_a_pointer(tmp_path: Path) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    (tmp_path / "m.yaml").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"m\.yaml: a Git LFS pointer"):
        load_model(path)


@pytest.mark.parametrize("page", PAGES)
def test_a_web_page(page: str, tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_text(page)
    with pytest.raises(CheckpointError, match=r"m\.ckpt: a web page, not a checkpoint"):
        load_model(tmp_path / "m.ckpt")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"m\.ckpt: not a readable checkpoint"):
        load_model(tmp_path / "m.ckpt")
