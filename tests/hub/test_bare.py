"""Find the YAML file that describes a checkpoint, by its name."""

from pathlib import Path

import pytest
import torch

from stemsplit import load_model
from stemsplit.errors import CheckpointError
from stemsplit.hub.bare import configs_beside
from stemsplit.hub.manage import add_model
from tests.hub.published import YAMLS, write_plain


def beside(folder: Path, checkpoint: str, *others: str) -> list[str]:
    """Names of the files that may describe a checkpoint in a folder of these files."""
    for name in (checkpoint, *others):
        (folder / name).touch()
    return [path.name for path in configs_beside(folder / checkpoint)]


@pytest.mark.parametrize(
    ("checkpoint", "config"),
    [
        ("m.ckpt", "m.yaml"),
        ("m.ckpt", "m.yml"),
        ("m.ckpt", "m.ckpt.yaml"),
        ("m.ckpt", "config_m.yaml"),
        ("m.ckpt", "m_config.yaml"),
        ("m.ckpt", "m-config.yml"),
        ("m.ckpt", "m.config.yaml"),
        ("m.ckpt", "config-m.ckpt.yaml"),
        ("m.ckpt", "Config_M.YAML"),
        ("m_ep_17_sdr_9.65.ckpt", "config_m_ep_17_sdr_9.65.yaml"),
        ("m+(v1).safetensors", "m+(v1).safetensors.yaml"),
    ],
)
def test_a_file_named_after_the_checkpoint_goes_first(checkpoint: str, config: str, tmp_path: Path) -> None:
    others = (
        "a.yaml",
        "b.ckpt",
        "b.yaml",
        "config.yaml",
        "config_mm.yaml",
        "m2_config.yaml",
        "xconfig_m.yaml",
    )
    assert beside(tmp_path, checkpoint, config, *others) == [config]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["m.yaml", "m.yml", "config_m.yaml"], ["m.yaml"]),
        (["m.yml", "m.ckpt.yaml"], ["m.yml"]),
        (["config_m.yaml", "m_config.yaml", "a.yaml"], ["config_m.yaml", "m_config.yaml"]),
        (["config.yaml"], ["config.yaml"]),
        (["model.yaml", "other.yaml"], ["model.yaml", "other.yaml"]),
        (["model.yaml", "b.ckpt", "b.yaml", "c.pth", "config_c.yaml"], ["model.yaml"]),
        (["b.ckpt", "b.yaml"], []),
        (["._m.yaml", ".m.yaml", "notes.txt"], []),
        ([], []),
    ],
)
def test_other_files_count_unless_they_are_another_checkpoints(
    files: list[str], found: list[str], tmp_path: Path
) -> None:
    assert beside(tmp_path, "m.ckpt", *files) == found


def test_a_folder_of_that_name_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").mkdir()
    assert beside(tmp_path, "m.ckpt", "config_m.yaml") == ["config_m.yaml"]


def test_several_files_are_listed_and_one_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "own/models.yaml"))
    network = write_plain(tmp_path, "scnet", "right.yaml")
    (tmp_path / "wrong.yaml").write_text(YAMLS["bs_roformer"])
    path = tmp_path / "m.ckpt"
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: several YAML files might describe it: right.yaml, wrong.yaml"
    assert f"models add NAME {path} --config FILE" in (caught.value.hint or "")
    add_model("mine", path, config=tmp_path / "right.yaml")
    # the registry knows the file by its hash from here on
    for source in ("mine", path):
        found = load_model(source).state_dict()
        assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())
