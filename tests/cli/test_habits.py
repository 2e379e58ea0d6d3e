"""What people type who come from other programs: our settings, our command, or a sentence."""

from pathlib import Path
from typing import Any

import pytest

from stemsplit.cli.habits import HABITS, command_of
from stemsplit.cli.separate import _request, separate
from stemsplit.cli.separate_options import NOTICES
from stemsplit.errors import SettingsError
from tests.cli.conftest import Shell
from tests.docs.pages import DOCS

SETTINGS = [
    # demucs
    ("--name htdemucs_ft a.wav", "-m htdemucs_ft a.wav"),
    ("--two-stems vocals a.wav", "-s vocals --rest a.wav"),
    ("--two-stems=vocals --other-method minus a.wav", "-s vocals --rest a.wav"),
    ("--mp3 --mp3-bitrate 320 a.wav", "-f mp3 --bitrate 320k a.wav"),
    ("--mp3 --mp3-bitrate=192k a.wav", "-f mp3 --bitrate 192k a.wav"),
    ("--flac --int24 a.wav", "-f flac --bit-depth 24 a.wav"),
    ("--float32 a.wav", "--bit-depth 32f a.wav"),
    ("--clip-mode rescale a.wav", "--clip common a.wav"),
    ("--clip-mode Clamp a.wav", "--clip clamp a.wav"),
    ("--clip-mode none a.wav", "--clip none a.wav"),
    ("--filename {track}/{stem}.{ext} a.wav", "--template {name}/{stem}.{ext} a.wav"),
    ("--out separated -d cpu -j 2 --shifts 3 a.wav", "-o separated -d cpu -j 2 --shifts 3 a.wav"),
    ("--verbose --overlap 0.5 a.wav", "--overlap 0.5 a.wav"),
    # audio-separator
    ("a.wav --model_filename MDX23C-8KFFT-InstVoc_HQ.ckpt", "a.wav -m MDX23C-8KFFT-InstVoc_HQ.ckpt"),
    ("a.wav --output_dir=o --output_format=FLAC", "a.wav -o o -f flac"),
    ("a.wav --output_format MP3 --output_bitrate 320k", "a.wav -f mp3 --bitrate 320k"),
    ("a.wav --single_stem Instrumental", "a.wav -s Instrumental"),
    ("-m mdx --extra_models mdx_extra hdemucs_mmi a.wav", "-m mdx -m mdx_extra -m hdemucs_mmi a.wav"),
    (
        "-m mdx --extra_models x.onnx --ensemble_algorithm AVG_FFT --ensemble_weights 1 0.5 a.wav",
        "-m mdx -m x.onnx --blend avg_fft --weights 1,0.5 a.wav",
    ),
    ("--ensemble_preset vocal_clean a.wav", "-m vocal_clean a.wav"),
    ("--sample_rate 48000 --batch_size 2 a.wav", "--sample-rate 48000 --batch-size 2 a.wav"),
    ("--use_autocast --use_soundfile --chunk_duration 600 a.wav", "a.wav"),
    ("--use_native_fp16 --use_torch_compile a.wav", "--precision fp16 --compile a.wav"),
    (
        "--mdx_overlap 0.5 --mdx_batch_size 4 --mdx_enable_denoise a.wav",
        "--overlap 0.5 --batch-size 4 --model-option denoise=true a.wav",
    ),
    (
        "--vr_batch_size 2 --vr_window_size 320 --vr_aggression 10 --vr_enable_tta "
        "--vr_high_end_process a.wav",
        "--batch-size 2 --model-option window_size=320 --model-option aggressiveness=10 "
        "--model-option tta=true --model-option high_end_process=true a.wav",
    ),
    (
        "--vr_enable_post_process --vr_post_process_threshold 0.1 a.wav",
        "--model-option post_process=true --model-option post_process_threshold=0.1 a.wav",
    ),
    (
        "--demucs_segment_size Default --demucs_shifts 2 --demucs_overlap 0.3 a.wav",
        "--shifts 2 --overlap 0.3 a.wav",
    ),
    ("--demucs_segment_size 7 --demucs_segments_enabled True a.wav", "--segment 7 a.wav"),
    ("--mdxc_overlap 8 --mdxc_batch_size 2 a.wav", "--overlap 0.875 --batch-size 2 a.wav"),
    # MSST
    (
        "--model_type scnet --start_check_point x.ckpt --input_folder in --store_dir out",
        "-m x.ckpt in -o out",
    ),
    ("--extract_instrumental --use_tta --force_cpu a.wav", "-s vocals,instrumental --tta -d cpu a.wav"),
    ("--flac_file --pcm_type PCM_16 --device_ids 1 a.wav", "-f flac --bit-depth 16 -d cuda:1 a.wav"),
    ("--pcm_type FLOAT --disable_detailed_pbar --skip_errors a.wav", "--bit-depth 32f a.wav"),
    # pymss
    ("-m mdx -i in -o out --save-as-folder --tta", "-m mdx in -o out --tta"),
    ("-m mdx --input in", "-m mdx in"),
    # words of ours, which stay as they are
    ("-mmdx -ofoo --format=flac -- --flac", "-m mdx -o foo -f flac -- --flac"),
    ("-nP -s --mp3 a.wav", "-n -P -s --mp3 a.wav"),
]
REFUSED = [
    ("-n htdemucs a.wav", "-n htdemucs: -n is --dry-run", "did you mean -m htdemucs?"),
    (
        "-n htdemucs_ft.yaml a.wav",
        "-n htdemucs_ft.yaml: -n is --dry-run",
        "did you mean -m htdemucs_ft.yaml?",
    ),
    (
        "--overlap 4 a.wav",
        "--overlap 4: must be from 0 to 0.99",
        "did you mean --overlap 0.75 (4 windows per chunk)?",
    ),
    ("--overlap 1.5 a.wav", "--overlap 1.5: must be from 0 to 0.99", ""),
    ("--mp3-preset 2 a.wav", "--mp3-preset: the MP3 encoder has no preset here; leave it out", ""),
    ("--no-split a.wav", "--no-split: tracks are always cut into chunks, so that memory stays bounded", ""),
    ("--other-method add a.wav", "--other-method: --rest is always the mix less the stem", ""),
    (
        "--clip-mode tanh a.wav",
        "--clip-mode: tanh: has no counterpart here; there is rescale, clamp, none",
        "",
    ),
    ("--filename {track}.{trackext} a.wav", "--filename: {trackext}: has no counterpart in --template", ""),
    (
        "--ensemble_algorithm ensemble_wav -m mdx -m mdx_extra a.wav",
        "ensemble_wav: needs the whole track",
        "",
    ),
    ("--normalization 0.9 a.wav", "--normalization: --clip common turns all stems down alike", ""),
    ("--amplification 0.4 a.wav", "--amplification: the level is never raised", ""),
    ("--invert_spect a.wav", "--invert_spect: --rest subtracts samples", ""),
    ("--custom_output_names {} a.wav", "--custom_output_names: --template names the files", ""),
    ("--log_level debug a.wav", "--log_level: --debug and --progress choose", ""),
    ("--use_directml a.wav", "--use_directml: there is no DirectML here", ""),
    ("--mdx_segment_size 256 a.wav", "--mdx_segment_size: --segment S is the chunk's length", ""),
    ("--mdx_hop_length 1024 a.wav", "--mdx_hop_length: the hop is the model's own", ""),
    ("--mdxc_segment_size 256 a.wav", "--mdxc_segment_size: --segment S is the chunk's length", ""),
    ("--mdxc_pitch_shift 2 a.wav", "--mdxc_pitch_shift: the pitch isn't shifted here", ""),
    ("--mdxc_overlap 0.5 a.wav", "--mdxc_overlap: 0.5: is not a number of windows", ""),
    ("--device_ids 0 1 a.wav", "--device_ids: one device computes here", ""),
    ("--bigshifts 3 a.wav", "--bigshifts: --shifts N averages over random delays", ""),
    ("--filename_template {file_name}/{instr} a.wav", "--filename_template: --template", ""),
    ("--draw_spectro 10 a.wav", "--draw_spectro: spectrograms aren't drawn here", ""),
    ("--lora_checkpoint_peft x a.wav", "--lora_checkpoint_peft: adapters aren't loaded", ""),
    ("--lora_checkpoint_loralib x a.wav", "--lora_checkpoint_loralib: adapters aren't loaded", ""),
    ("separate --list-models", "--list-models: it's a command here: stemsplit models list", ""),
    ("a.wav --list_filter vocals", "--list_filter: it's a command here: stemsplit models list WORD", ""),
    ("a.wav --name", "--name: needs a value", ""),
    ("a.wav --mp3=3", "--mp3=3: takes no value", ""),
    ("a.wav --repo nowhere -m htdemucs", "nowhere: has no model htdemucs", ""),
    ("a.wav --repo nowhere", "nowhere: is a folder of models; name the model with -m", ""),
]
COMMANDS = [
    ("--list-models", "models list"),
    ("-l --list_filter vocals", "models list vocals"),
    ("--list_models --list_filter=vocals", "models list vocals"),
    ("--list_presets", "models list --task preset"),
    ("--env_info", "doctor"),
    ("--download_model_only -m mdx", "models download mdx"),
    ("--download_model_only --model_filename=mdx", "models download mdx"),
    ("a.wav -- -l", "separate a.wav -- -l"),
]


def parsed(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the options of a command line, and the notices about it."""
    context = separate.make_context("stemsplit", text.split())
    return context.params, context.meta[NOTICES]


@pytest.mark.parametrize(("theirs", "ours"), SETTINGS)
def test_words_of_other_programs_are_our_settings(theirs: str, ours: str) -> None:
    (found, _), (expected, notices) = parsed(theirs), parsed(ours)
    styles = found.pop("style"), expected.pop("style")
    assert found == expected and not notices
    assert _request(found) == _request(expected)
    assert styles == ("plain" if "detailed_pbar" in theirs else "auto", "auto")


@pytest.mark.parametrize(("typed", "sentence", "hint"), REFUSED)
def test_what_has_no_counterpart_says_so(shell: Shell, typed: str, sentence: str, hint: str) -> None:
    shell.write("a.wav", seconds=0.1)
    ran = shell(*typed.split())
    assert ran.code == 2, ran.err
    first, *others = ran.err.splitlines()
    assert sentence in first and hint in "".join(others)
    assert shell.files() == ["a.wav"]


@pytest.mark.parametrize(("typed", "command"), COMMANDS)
def test_options_that_are_commands_here(typed: str, command: str) -> None:
    assert command_of(typed.split()) == command.split()


def test_every_word_has_a_row_and_stands_in_the_documentation() -> None:
    rows = " ".join([*(row[0] for row in SETTINGS), *(row[0] for row in REFUSED)]).replace("_", "-")
    words = rows.replace("=", " ").split()
    page = (DOCS / "coming-from.md").read_text().replace("_", "-")
    elsewhere = {"--repo", "--model-file-dir", "--config-path"}  # tested with files below
    for word in HABITS:
        assert word in words or word in elsewhere, word
        assert f"`{word}" in page or f" {word}" in page, word


def test_each_word_is_told_once(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.1)
    ran = shell(
        "a.wav", "-n", "--name", "mdx", "--two_stems", "vocals", "--two_stems", "vocals", "--batch_size", "1"
    )
    assert [line for line in ran.err.splitlines() if line.startswith("note: --")] == [
        "note: --name mdx: here --model mdx",
        "note: --two_stems vocals: here --stem vocals --rest",
        "note: --batch_size: here --batch-size",
    ]
    assert ran.code == 0


def test_other_commands_take_underscores(shell: Shell) -> None:
    assert shell("evaluate", "--dry_run").err == shell("evaluate", "--dry-run").err


@pytest.mark.parametrize("word", ["--repo", "--model_file_dir"])
def test_a_folder_of_models(shell: Shell, word: str) -> None:
    for name in ("htdemucs.yaml", "955717e8-8726e21a.th", "x.ckpt"):
        (shell.folder / "models").mkdir(exist_ok=True)
        (shell.folder / "models" / name).write_text("")
    for typed, file in (
        ("htdemucs", "htdemucs.yaml"),
        ("955717e8", "955717e8-8726e21a.th"),
        ("x.ckpt", "x.ckpt"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(shell.folder)
            assert parsed(f"a.wav -m {typed} {word} models")[0]["model"] == (f"models/{file}",)
            assert parsed(f"a.wav -m mdx {word} models")[0]["model"] == ("mdx",)


def test_the_yaml_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.ckpt", "config_x.yaml", "other.yaml", "y.ckpt", "y.yaml"):
        Path(name).write_text("")
    params, notices = parsed("--start_check_point x.ckpt --config_path config_x.yaml a.wav")
    assert params["model"] == ("x.ckpt",)
    assert notices[-1] == "--config_path config_x.yaml: not needed, the YAML beside the checkpoint is found"
    with pytest.raises(SettingsError, match="the YAML is read where it lies"):
        parsed("--start_check_point x.ckpt --config_path y.yaml a.wav")
