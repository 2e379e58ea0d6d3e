"""The command on a community checkpoint: a training's file in half precision, with a YAML of another name."""

import numpy as np
import soundfile
import torch

from stemsplit.models.network import Network
from tests.cli.conftest import Shell
from tests.hub.published import YAMLS, halved, msst, network_of


def save(shell: Shell, network: Network) -> None:
    torch.save(msst(halved(network.state_dict(), torch.bfloat16)), shell.folder / "voices_ep_3.ckpt")
    (shell.folder / "config_voices_ep_3.yaml").write_text(YAMLS["bs_roformer"])


def test_a_song_is_separated_as_with_the_bare_weights_and_options(shell: Shell) -> None:
    shell.write("s.wav", seconds=1.2)
    network = network_of("bs_roformer")
    save(shell, network)
    (shell.folder / "other.yaml").write_text("a: 1")
    ran = shell("s.wav", "-m", "voices_ep_3.ckpt", "-o", "published")
    assert ran.code == 0, ran.err
    state = {k: v.float() for k, v in halved(network.state_dict(), torch.bfloat16).items()}
    (shell.folder / "bare").mkdir()
    torch.save(state, shell.folder / "bare/m.pt")
    yaml = YAMLS["bs_roformer"]
    (shell.folder / "bare/m.yaml").write_text(yaml.replace("num_overlap: 4, ", ""))
    assert shell("s.wav", "-m", "bare/m.pt", "-o", "own", "--overlap", "0.75").code == 0
    assert shell("s.wav", "-m", "bare/m.pt", "-o", "default").code == 0
    for stem in ("vocals", "other"):
        files = [shell.folder / folder / f"s/{stem}.wav" for folder in ("published", "own", "default")]
        published, own, default = (soundfile.read(file)[0] for file in files)
        assert len(published) == 52920 and np.abs(published).max() > 0
        assert np.array_equal(published, own) and not np.array_equal(published, default)


def test_an_ambiguous_configuration_is_one_line_and_a_hint(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    save(shell, network_of("bs_roformer"))
    (shell.folder / "config_voices_ep_3.yaml").rename(shell.folder / "a.yaml")
    (shell.folder / "b.yaml").write_text("x: 1")
    ran = shell("s.wav", "-m", "voices_ep_3.ckpt")
    assert ran.code == 4
    assert "voices_ep_3.ckpt: several YAML files might describe it: a.yaml, b.yaml\n" in ran.err
    assert "voices_ep_3.yaml, or: stemsplit models add NAME voices_ep_3.ckpt --config FILE" in ran.err
