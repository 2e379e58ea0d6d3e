"""Checks and set-up before the first step, cheapest first."""

import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import torch

from stemsplit import models
from stemsplit.core.compute import find_device, is_out_of_memory
from stemsplit.errors import DeviceError, ResourceError, UnknownNameError
from stemsplit.events import Callback, Notice, emit
from stemsplit.hub.load import load_model
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network
from stemsplit.reading import Invalid
from stemsplit.training.adapters import add_adapters, freeze
from stemsplit.training.checks import check_members, check_nodes, check_segment, check_stems
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile
from stemsplit.training.criterion import MASK_ERROR, Masking
from stemsplit.training.data import Samples, SampleSpec
from stemsplit.training.library import DataSpec, WholeSong, data_spec, open_mixes, open_songs, open_whole
from stemsplit.training.optim import optimizer_class, parameter_groups
from stemsplit.training.progress import Preparing
from stemsplit.training.rng import derive_seed
from stemsplit.training.teacher import Teacher
from stemsplit.training.validation import audible


@dataclass(frozen=True)
class Prepared:
    """Network and data of a run.

    Attributes:
        network: to train.
        samples: training samples.
        songs: validation songs.
        teacher: of semi-supervised training; else None.
    """

    network: Network
    samples: Samples
    songs: list[WholeSong]
    teacher: Teacher | None


def check_machine(file: ConfigFile) -> None:
    """Check that the devices, the other machines, the loggers and the data sets exist.

    Raises:
        SettingsError: one doesn't; the message names the line.
    """
    fit, data = file.config.fit, file.config.data
    if "wandb" in file.config.loggers and find_spec("wandb") is None:
        raise file.error("loggers", "wandb isn't installed: pip install wandb")
    try:
        device = find_device(fit.device)
    except DeviceError as error:
        raise file.error("fit.device", error.reason) from None
    if device.type == "cuda" and fit.devices > torch.cuda.device_count():
        raise file.error("fit.devices", f"there are {torch.cuda.device_count()} CUDA devices")
    check_nodes(file)
    for key, sets in (("train", data.train), ("valid", data.valid), ("unlabelled", data.unlabelled)):
        for number, one in enumerate(sets):
            if not Path(one.path).expanduser().exists():
                raise file.error(f"data.{key}.{number}.path", f"no such file or folder: {one.path}")
    for number, one in enumerate(data.unlabelled):
        if not Path(one.path).expanduser().is_dir():
            raise file.error(f"data.unlabelled.{number}.path", f"must be a folder: {one.path}")


def build_network(file: ConfigFile, callback: Callback | None = None) -> Network:
    """Return the network that the run starts from.

    Raises:
        SettingsError: the configuration describes no trainable network; the message names the line.
        ModelUnavailableError: the model to start from can't be loaded.
    """
    config = file.config.model
    network = _load_start(file, config.start, callback) if config.start else _build_new(file)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise file.error("model", f"{type(network).__name__} has no weights to train")
    return _adapted(file, network)


def _adapted(file: ConfigFile, network: Network) -> Network:
    """Add the adapters to a network, and freeze what isn't trained."""
    lora, section = file.config.lora, "lora."
    try:
        if lora is not None:
            add_adapters(network, lora, file.config.seed)
        section = "model."
        freeze(network, file.config.model.freeze)
    except Invalid as error:
        raise file.error(section + error.key, error.rule) from None
    return network


def _load_start(file: ConfigFile, name: str, callback: Callback | None) -> Network:
    """Load the model to fine-tune, all of its parameters trainable."""
    try:
        network = load_model(name, callback=callback)
    except UnknownNameError as error:
        raise file.error("model.start", f"{error.reason} ({error.hint})") from None
    if isinstance(network, Bag):
        raise file.error("model.start", f"{name} is several networks in one; name one of its members")
    return network.requires_grad_(True)


def _build_new(file: ConfigFile) -> Network:
    """Build a network with random weights, which depend on the run's seed alone."""
    config = file.config.model
    family = config.family or ""
    if family not in models.FAMILIES:
        near = get_close_matches(family, models.FAMILIES, n=1)
        known = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(models.FAMILIES))}"
        raise file.error("model.family", f"no network family is called {family}; {known}")
    known_arguments = list(models.family(family).Arguments.__dataclass_fields__)
    for name in config.arguments:
        if name not in known_arguments:
            near = get_close_matches(name, known_arguments, n=1)
            rule = f"{family} has no such argument" + (f"; did you mean {near[0]}?" if near else "")
            raise file.error(f"model.arguments.{name}", rule)
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        # warnings about empty weights: they are refused below
        warnings.filterwarnings("ignore", "Initializing zero-element|std\\(\\): degrees")
        torch.manual_seed(derive_seed(file.config.seed, "weights"))
        try:
            network = models.build(family, config.arguments)
        except Exception as error:  # a constructor may fail on unsuitable arguments in any way
            if is_out_of_memory(error):
                raise ResourceError(f"this {family} doesn't fit into memory") from error
            raise file.error("model.arguments", f"makes no {family} ({_first_line(error)})") from error
    empty = [name for name, weights in network.named_parameters() if not weights.numel()]
    if empty:
        raise file.error("model.arguments", f"makes no {family} ({empty[0]} would be empty)")
    return network


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_network(file: ConfigFile, network: Network) -> None:
    """Check that the rest of a configuration fits its network.

    Raises:
        SettingsError: it doesn't; the message names the line.
    """
    config = file.config
    stems = mix_stems(config, network)
    missing = [stem for stem in network.stems if stem not in stems]
    if missing:
        raise file.error("data.stems", f"lacks {', '.join(missing)}, which the network estimates")
    check_stems(file, stems)
    for stem in config.loss.weights:
        if stem not in network.stems:
            raise file.error(f"loss.weights.{stem}", f"the network estimates {', '.join(network.stems)}")
    if not any(config.loss.weights.get(stem, 1.0) for stem in network.stems):
        raise file.error("loss.weights", "must not all be zero")
    if MASK_ERROR in config.loss.terms and not isinstance(network, Masking):
        raise file.error(f"loss.terms.{MASK_ERROR}", f"{type(network).__name__} has no masks to compare")
    check_segment(file, network, _segment_samples(config, network))
    try:
        optimizer_class(config.optim)
        parameter_groups(network, config.optim)
    except Invalid as error:
        raise file.error(f"optim.{error.key}", error.rule) from None


def mix_stems(config: Config, network: Network) -> tuple[str, ...]:
    """Return the stems that mixes are made of."""
    return network.stems if config.data.stems is None else config.data.stems


def prepare(file: ConfigFile, network: Network, callback: Callback | None = None) -> Prepared:
    """Open the data for a network from `build_network`.

    Raises:
        StemsplitError: a data set is unusable.
    """
    check_members(file)
    config = file.config
    stems = mix_stems(config, network)
    spec = data_spec(config.data, stems, network.sample_rate, network.channels, network.normalise)

    def progress(name: str, number: int, count: int) -> None:
        emit(callback, Preparing(name, number, count))

    def notify(message: str) -> None:
        emit(callback, Notice(message))

    sets = open_songs(config.data.train, spec, progress, notify)
    unlabelled = open_mixes(config.data.unlabelled, spec, progress)
    samples = Samples(sets, _sample_spec(config, network, spec), config.data, config.augment, unlabelled)
    teacher = None
    if config.semi is not None:
        complete = set(stems) == set(network.stems)
        teacher = Teacher(network, config.semi, config.augment, config.seed, complete=complete)
    songs = open_whole(config.data.valid, spec, notify)
    counted = [stem for stem in network.stems if config.loss.weights.get(stem, 1.0)]
    # a validation that scores nothing couldn't select weights: refuse it before the first step
    if songs and all(audible(song, stem) is None for song in songs for stem in counted):
        raise file.error("data.valid", f"no song has {' or '.join(counted)} loud enough for a score")
    return Prepared(network, samples, songs, teacher)


def _segment_samples(config: Config, network: Network) -> int:
    """Return the length of a training sample in samples."""
    return round(config.data.segment_s * network.sample_rate)


def _sample_spec(config: Config, network: Network, spec: DataSpec) -> SampleSpec:
    """Return the shape of the training samples of a network."""
    return SampleSpec(
        seed=config.seed,
        stems=spec.stems,
        targets=tuple(spec.stems.index(stem) for stem in network.stems),
        channels=spec.channels,
        samples=_segment_samples(config, network),
        sample_rate=spec.sample_rate,
        activity_samples=spec.activity_samples,
        normalise=spec.stats,
        raw_stems=config.semi is not None,
    )
