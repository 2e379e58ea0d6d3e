"""Every row of the catalogue: it parses, its sources are sound, and what it says of its network is true."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit.hub import catalogue
from stemsplit.hub.entries import FileSpec, ModelSpec
from stemsplit.hub.records import GRADES, grade_of
from stemsplit.hub.registry import all_models, find_model, is_known, registry
from stemsplit.models import FAMILIES, build

ROWS = catalogue.load().rows
PLACES = [parent / "shared/zoo/catalog.json" for parent in Path(__file__).parents]
LIST = next((place for place in PLACES if place.is_file()), PLACES[-1])

# Bytes of a tensor's name and shape in a checkpoint, beside its values
LEAST, MOST = 200, 600
# Tensors and numbers that the files of a family have besides: bytesep's STFT of 512 samples as convolutions
CONSTANTS = {"bytesep": (5, 2 * 257 * 512 + 2 * 512 * 512 + 512)}


def chain(file: FileSpec | None) -> list[FileSpec]:
    return [] if file is None else [file, *chain(file.otherwise)]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_complete(name: str) -> None:
    spec = catalogue.entry(name)
    assert spec.name == name and spec.license and spec.task
    assert bool(spec.family) != bool(spec.bag)
    if spec.reason:
        return
    assert spec.family is None or spec.family in FAMILIES
    assert spec.bag or spec.files
    assert spec.stems or spec.config or spec.files or spec.bag
    for file in (*spec.files, *chain(spec.config)):
        assert all(re.fullmatch(r"https://[^\s?]+(\?download=1|\?dl=1)?", url) for url in file.urls), file
        assert len(set(file.urls)) == len(file.urls)
        assert grade_of(file) in GRADES or file in chain(spec.config)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", file.sha256)
    if spec.license != "not stated":
        assert spec.license_source and re.fullmatch(r"\d{4}-\d\d-\d\d", spec.license_date)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "arguments" in row])
def test_known_arguments_build_and_explain_the_size(name: str) -> None:
    spec = catalogue.entry(name)
    with torch.device("meta"):
        network = build(spec.family or "", spec.arguments)
    assert network.stems == spec.stems and network.sample_rate == spec.sample_rate
    size = spec.files[0].size if len(spec.files) == 1 else None
    if size is None or spec.files[0].name.endswith(".onnx"):
        return  # an ONNX file has folded and transposed weights
    state = network.state_dict()
    more_tensors, more_numbers = CONSTANTS.get(spec.family or "", (0, 0))
    numbers = sum(value.nbytes for value in state.values()) // 4 + more_numbers
    tensors = len(state) + more_tensors
    if any(LEAST * tensors <= size - bytes_each * numbers <= MOST * tensors for bytes_each in (2, 4)):
        return
    trained = 12 * sum(parameter.numel() for parameter in network.parameters())  # with two moments of Adam
    assert 0.98 * size < trained < size, f"{size} bytes for {numbers} numbers in {tensors} tensors"


def test_names_are_told_apart() -> None:
    names = Counter(catalogue.keys(name)[0] for name in [*ROWS, *registry()])
    assert [name for name, count in names.items() if count > 1] == []
    assert set(catalogue.load().registered) <= set(registry())


@pytest.mark.parametrize("name", ROWS)
def test_a_model_is_found_by_each_of_its_names(name: str) -> None:
    assert find_model(name).name == name
    row = ROWS[name]
    found = Counter(find_model(alias).name for alias in row.get("aliases", ()))
    assert not found or found.most_common(1)[0][0] == name
    assert not is_known(name + "_nothing_like_it")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("BS-Roformer-SW.ckpt", "bs_roformer_sw"),
        ("bs-roformer-sw", "bs_roformer_sw"),
        ("UVR-MDX-NET-Inst_HQ_5.onnx", "mdx_inst_hq_5"),
        ("UVR-De-Echo-Normal.pth", "uvr_deecho"),
        ("model_bs_roformer_ep_317_sdr_12.9755.ckpt", "bs_roformer_viperx"),
        ("MDX23C-DrumSep-aufr33-jarredou", "drumsep"),
        ("Roformer Model: BS-Roformer-Viperx-1297", "bs_roformer_viperx"),
        ("955717e8-8726e21a.th", "955717e8"),
        ("6b9c2ca1", "6b9c2ca1-3fd82607"),
    ],
)
def test_names_that_people_type(asked: str, found: str) -> None:
    assert find_model(asked).name == found


def test_the_file_is_read_quickly() -> None:
    assert catalogue.FILE.stat().st_size < 1_000_000
    lines = catalogue.FILE.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"name"') for line in lines) == len(ROWS)


def test_no_row_says_what_the_registry_has() -> None:
    pinned = {
        f.sha256: s.name for s in registry().values() for f in s.files if f.sha256 and len(f.sha256) == 64
    }
    again = [name for name in ROWS for file in catalogue.entry(name).files if file.sha256 in pinned]
    assert again == []


def rows_of(origin: str) -> list[Any]:
    if not LIST.is_file():
        pytest.skip(f"no list of checkpoints at {LIST}")
    rows = json.loads(LIST.read_text())["rows"]
    return [row for row in rows if any(origin in said for said in row["origin"])]


def runnable(row: Any) -> bool:
    spec: ModelSpec = find_model(row["stemsplit"]["registry"] or row["name"])
    return not spec.reason


@pytest.mark.parametrize(("origin", "least"), [("", 469), ("pymss", 315), ("audio-separator|UVR", 178)])
def test_so_many_of_the_known_checkpoints_can_be_run(origin: str, least: int) -> None:
    wanted = re.compile(origin)
    rows = [row for row in rows_of("") if any(wanted.search(said) for said in row["origin"])]
    assert sum(map(runnable, rows)) >= least


def test_every_name_of_the_list_is_found() -> None:
    for row in rows_of(""):
        spec = find_model(row["name"])
        assert row["stemsplit"]["registry"] in (None, spec.name)
        bare, suffix = os.path.splitext(row["name"])
        if suffix in (".ckpt", ".pth", ".onnx", ".th") and bare not in registry():
            assert find_model(bare).name == spec.name


def test_all_models_are_those_of_both() -> None:
    models = all_models()
    assert len({spec.name for spec in models}) == len(models)
    assert {spec.name for spec in models} >= set(ROWS)
