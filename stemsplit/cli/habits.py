"""Words of other programs that `stemsplit separate` accepts: demucs, audio-separator, MSST and pymss.

They aren't advertised in the help. Each is translated before the command line is parsed, with a notice of
what to type here; a word without a counterpart is refused with a sentence. docs/coming-from.md lists them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stemsplit.cli.failures import usage_error

FOLDER, CONFIG = "folder of models", "YAML of a model"


@dataclass(frozen=True)
class Habit:
    """Translation of a word.

    Attributes:
        ours: returns our arguments for the values that follow the word; raises ValueError with a sentence if
            there are none.
        values: number of values; None for one or more, as long as `more` accepts them.
        more: tells whether a further word is a value.
        note: explanation of a word without arguments of ours.
        place: what the value is, if the word only makes sense with the model's name.
    """

    ours: Callable[..., Sequence[str]]
    values: int | None = 1
    more: Callable[[str], bool] = lambda word: False
    note: str = ""
    place: str = ""


def _same(*ours: str) -> Habit:
    """Return the habit of a word without a value."""
    return Habit(lambda: ours, 0)


def _renamed(ours: str, convert: Callable[[str], str] = str) -> Habit:
    """Return the habit of an option that has another name here."""
    return Habit(lambda value: (ours, convert(value)))


def _refused(sentence: str, values: int = 0) -> Habit:
    """Return the habit of a word without a counterpart."""

    def refuse(*_: str) -> Sequence[str]:
        raise ValueError(sentence)

    return Habit(refuse, values)


def _needless(note: str, values: int = 0) -> Habit:
    """Return the habit of a word for what happens here anyway."""
    return Habit(lambda *_: (), values, note=f"not needed, {note}")


def _chosen(ours: str, **words: str) -> Habit:
    """Return the habit of an option whose values have other names here."""

    def choose(value: str) -> Sequence[str]:
        if value.lower() not in words:
            raise ValueError(f"{value}: has no counterpart here; there is {', '.join(words)}")
        return (ours, words[value.lower()])

    return Habit(choose)


def _windows(value: str) -> str:
    """Return the overlap as a fraction, given as the number of windows that cover a sample."""
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{value}: is not a number of windows")
    return f"{1 - 1 / int(value):g}"


def _template(value: str) -> str:
    """Return demucs's or MSST's pattern of a file's name as a template."""
    named = value.replace("{track}", "{name}")
    if "{trackext}" in named:
        raise ValueError("{trackext}: has no counterpart in --template")
    return named


def _only_minus(value: str) -> Sequence[str]:
    if value != "minus":
        raise ValueError("--rest is always the mix less the stem; there is only minus")
    return ()


def _rate(value: str) -> str:
    return value if value.lower().endswith("k") else f"{value}k"


def _segment(value: str) -> Sequence[str]:
    return () if value.lower() == "default" else ("--segment", value)


def _devices(*numbers: str) -> Sequence[str]:
    if len(numbers) > 1:
        raise ValueError("one device computes here; --shard I/N shares a batch among several runs")
    return ("--device", f"cuda:{numbers[0]}")


def _is_model(word: str) -> bool:
    from stemsplit.hub.registry import is_known

    return word.endswith((".ckpt", ".pth", ".onnx", ".th", ".yaml", ".safetensors")) or is_known(word)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d*\.?\d+", word) is not None


_FOLDER_OF_MODELS = Habit(lambda _: (), note="here -m takes the path of a model's file", place=FOLDER)
_BOUNDED = "memory is bounded for any length"
HABITS: Mapping[str, Habit] = {
    # demucs
    "--name": _renamed("--model"),
    "--out": _renamed("--output"),
    "--two-stems": Habit(lambda stem: ("--stem", stem, "--rest")),
    "--mp3": _same("--format", "mp3"),
    "--flac": _same("--format", "flac"),
    "--int24": _same("--bit-depth", "24"),
    "--float32": _same("--bit-depth", "32f"),
    "--mp3-bitrate": _renamed("--bitrate", _rate),
    "--mp3-preset": _refused("the MP3 encoder has no preset here; leave it out", 1),
    "--clip-mode": _chosen("--clip", rescale="common", clamp="clamp", none="none"),
    "--filename": _renamed("--template", _template),
    "--repo": _FOLDER_OF_MODELS,
    "--no-split": _refused("tracks are always cut into chunks, so that memory stays bounded; leave it out"),
    "--other-method": Habit(_only_minus, note="not needed, --rest is the mix less the stem"),
    "--verbose": _needless("progress is shown anyway, and --debug shows tracebacks"),
    "--list-models": _refused("it's a command here: stemsplit models list"),
    # audio-separator
    "--model-filename": _renamed("--model"),
    "--output-dir": _renamed("--output"),
    "--output-format": _renamed("--format", str.lower),
    "--output-bitrate": _renamed("--bitrate"),
    "--single-stem": _renamed("--stem"),
    "--model-file-dir": _FOLDER_OF_MODELS,
    "--extra-models": Habit(
        lambda *names: [word for name in names for word in ("--model", name)], None, _is_model
    ),
    "--ensemble-algorithm": _renamed("--blend", str.lower),
    "--ensemble-weights": Habit(lambda *weights: ("--weights", ",".join(weights)), None, _is_number),
    "--ensemble-preset": _renamed("--model"),
    "--list-filter": _refused("it's a command here: stemsplit models list WORD", 1),
    "--use-autocast": _needless("--precision auto, the default, takes what the device gains by"),
    "--use-native-fp16": _same("--precision", "fp16"),
    "--use-torch-compile": _same("--compile"),
    "--use-soundfile": _needless(_BOUNDED),
    "--use-directml": _refused("there is no DirectML here; --device takes what PyTorch names"),
    "--chunk-duration": _needless(_BOUNDED, 1),
    "--normalization": _refused("--clip common turns all stems down alike if one would clip", 1),
    "--amplification": _refused("the level is never raised, so that the stems sum to the mix", 1),
    "--invert-spect": _refused("--rest subtracts samples; there is no such choice"),
    "--custom-output-names": _refused("--template names the files", 1),
    "--log-level": _refused("--debug and --progress choose what is shown", 1),
    "--mdx-overlap": _renamed("--overlap"),
    "--mdx-batch-size": _renamed("--batch-size"),
    "--mdx-enable-denoise": _same("--model-option", "denoise=true"),
    "--mdx-segment-size": _refused("--segment S is the chunk's length in seconds", 1),
    "--mdx-hop-length": _refused("the hop is the model's own", 1),
    "--vr-batch-size": _renamed("--batch-size"),
    "--vr-window-size": Habit(lambda size: ("--model-option", f"window_size={size}")),
    "--vr-aggression": Habit(lambda value: ("--model-option", f"aggressiveness={value}")),
    "--vr-enable-tta": _same("--model-option", "tta=true"),
    "--vr-high-end-process": _same("--model-option", "high_end_process=true"),
    "--vr-enable-post-process": _same("--model-option", "post_process=true"),
    "--vr-post-process-threshold": Habit(lambda value: ("--model-option", f"post_process_threshold={value}")),
    "--demucs-segment-size": Habit(_segment),
    "--demucs-segments-enabled": _needless("tracks are always cut into chunks", 1),
    "--demucs-shifts": _renamed("--shifts"),
    "--demucs-overlap": _renamed("--overlap"),
    "--mdxc-overlap": _renamed("--overlap", _windows),
    "--mdxc-batch-size": _renamed("--batch-size"),
    "--mdxc-segment-size": _refused("--segment S is the chunk's length in seconds", 1),
    "--mdxc-pitch-shift": _refused("the pitch isn't shifted here", 1),
    # MSST
    "--start-check-point": _renamed("--model"),
    "--config-path": Habit(
        lambda _: (), note="not needed, the YAML beside the checkpoint is found", place=CONFIG
    ),
    "--model-type": _needless("the network is read from the checkpoint and its YAML", 1),
    "--input-folder": Habit(lambda folder: (folder,)),
    "--store-dir": _renamed("--output"),
    "--extract-instrumental": _same("--stem", "vocals,instrumental"),
    "--use-tta": _same("--tta"),
    "--force-cpu": _same("--device", "cpu"),
    "--device-ids": Habit(_devices, None, str.isdecimal),
    "--flac-file": _same("--format", "flac"),
    "--pcm-type": _chosen("--bit-depth", pcm_16="16", pcm_24="24", float="32f"),
    "--disable-detailed-pbar": _same("--progress", "plain"),
    "--skip-errors": _needless("a batch goes on after a track that fails"),
    "--bigshifts": _refused("--shifts N averages over random delays instead", 1),
    "--filename-template": _refused("--template '{dir}/{name}/{stem}.{ext}' names the files", 1),
    "--draw-spectro": _refused("spectrograms aren't drawn here", 1),
    "--lora-checkpoint-peft": _refused("adapters aren't loaded: merge them into the checkpoint", 1),
    "--lora-checkpoint-loralib": _refused("adapters aren't loaded: merge them into the checkpoint", 1),
    # pymss
    "--input": Habit(lambda path: (path,)),
    "-i": Habit(lambda path: (path,)),
    "--save-as-folder": _needless("every track gets a folder anyway"),
}


def dashed(word: str) -> str:
    """Return a long option with dashes for underscores; anything else as it is."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def translate(arguments: Sequence[str], own: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Return arguments in our words, and a notice for each foreign word.

    Args:
        arguments: of `stemsplit separate`.
        own: the command's options; True for one that takes a value.

    Raises:
        SettingsError: a word has no counterpart, or lacks its value.
    """
    left, ours, notices, places = list(arguments), list[str](), list[str](), dict[str, str]()
    while left:
        word = left.pop(0)
        if word == "--":
            ours += [word, *left]
            break
        name, *values = _apart(word, own)
        if name in HABITS and name not in own:
            habit = HABITS[name]
            found = _ours(word, habit, values, left)
            if habit.place:
                places[habit.place] = values[0]
            notices.append(_notice(word, values, found, habit.note))
            ours += found
            continue
        if (typed := word.partition("=")[0]) != name.partition("=")[0] and word.startswith("--"):
            notices.append(f"{typed}: here {name}")
        if own.get(name) and not values:
            values, left = left[:1], left[1:]
        ours += [name, *values]
    return _with_places(ours, places), list(dict.fromkeys(notices))


def _apart(word: str, own: Mapping[str, bool]) -> list[str]:
    """Return an option and its value as two words, with dashes for underscores; anything else as it is."""
    if word.startswith("--"):
        name, equals, value = dashed(word).partition("=")
        if name in HABITS or own.get(name):
            return [name, value] if equals else [name]
        return [dashed(word) if name in own else word]
    short, value = word[:2], word[2:]
    takes_value = own.get(short) or (short in HABITS and short not in own)
    return [short, value] if value and short.startswith("-") and takes_value else [word]


def _ours(word: str, habit: Habit, values: list[str], left: list[str]) -> list[str]:
    """Return our arguments for a word; take its values from those that are left.

    Raises:
        SettingsError: it has no counterpart, or lacks a value.
    """
    name = word.partition("=")[0]
    if values and habit.values == 0:
        raise usage_error(f"{word}: takes no value")
    while len(values) < (habit.values or 1) and habit.values != 0:
        if not left:
            raise usage_error(f"{name}: needs a value")
        values.append(left.pop(0))
    while habit.values is None and left and habit.more(left[0]):
        values.append(left.pop(0))
    try:
        return list(habit.ours(*values))
    except ValueError as error:
        raise usage_error(f"{name}: {error}") from None


def _notice(word: str, values: Sequence[str], found: Sequence[str], note: str) -> str:
    typed = " ".join([word.partition("=")[0], *values])
    return f"{typed}: here {' '.join(found)}" if found else f"{typed}: {note}"


def _with_places(ours: list[str], places: Mapping[str, str]) -> list[str]:
    """Return arguments whose models are the files that a folder of models or a YAML file belongs to.

    Raises:
        SettingsError: there is no model, or no such file beside it.
    """
    end = ours.index("--") if "--" in ours else len(ours)
    models = [i + 1 for i in range(end - 1) if ours[i] in ("-m", "--model")]
    for kind, place in places.items():
        if not models:
            raise usage_error(f"{place}: is a {kind}; name the model with -m")
        for i in models if kind == FOLDER else models[:1]:
            if kind == FOLDER:
                ours[i] = _in_folder(ours[i], Path(place))
            else:
                _require_beside(Path(place), Path(ours[i]))
    return ours


def _in_folder(model: str, folder: Path) -> str:
    """Return the path of a model's file in a folder; its name if there is none, and it is known."""
    names = [model, f"{model}.yaml", *(path.name for path in sorted(folder.glob(f"{model}-*.th")))]
    for name in names:
        if (folder / name).is_file():
            return str(folder / name)
    if not folder.is_dir() or not _is_model(model):
        raise usage_error(f"{folder}: has no model {model}", hint="-m takes the path of its file")
    return model


def _require_beside(config: Path, model: Path) -> None:
    """Refuse a YAML file that isn't the one that is read with a checkpoint."""
    from stemsplit.hub.bare import configs_beside

    if config.resolve() not in [path.resolve() for path in configs_beside(model)]:
        raise usage_error(
            f"--config_path {config}: the YAML is read where it lies beside the checkpoint",
            hint=f"copy it: cp {config} {model.with_suffix('.yaml')}",
        )


def command_of(arguments: Sequence[str]) -> list[str]:
    """Return the command that arguments without one mean, and its arguments; `separate` if no other.

    demucs and audio-separator list models and the like with options, where there are commands here.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    split = [_apart(dashed(word), dict.fromkeys(_BEFORE_WORDS, True)) for word in arguments[:end]]
    words = [part for word in split for part in word]
    for asked, command in _COMMANDS.items():
        if any(word in asked for word in words):
            return [*command, *(word for word in words if word not in (*asked, *_BEFORE_WORDS))]
    return ["separate", *arguments]


_COMMANDS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("--list-models", "-l"): ("models", "list"),
    ("--list-presets",): ("models", "list", "--task", "preset"),
    ("--download-model-only",): ("models", "download"),
    ("--env-info", "-e"): ("doctor",),
}
_BEFORE_WORDS = ("-m", "--model", "--model-filename", "--list-filter")  # the commands take bare words
