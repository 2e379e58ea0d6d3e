"""The registry's data, and the errors of malformed entries."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stemsplit import folders
from stemsplit.documents import Document, parse
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.hub.entries import FileSpec
from stemsplit.hub.registry import find_model, list_models, members, parse_registry, registry

PACKAGE = Path(folders.__file__).parent
ENTRY = {
    "family": "htdemucs",
    "stems": ["drums", "vocals"],
    "sample_rate": 44100,
    "license": "MIT",
    "files": [{"url": "https://host.example/m.th", "sha256": "0123abcd", "size": 7}],
}


def every_file() -> list[FileSpec]:
    files = [file for spec in registry().values() for file in spec.files]
    return files + [file.otherwise for file in files if file.otherwise]


class TestPackagedEntries:
    def test_the_models_that_users_ask_for_are_there(self):
        names = {spec.name for spec in list_models()}
        assert {
            "htdemucs",
            "htdemucs_ft",
            "htdemucs_6s",
            "hdemucs_mmi",
            "mdx",
            "mdx_extra",
            "classic",
        } <= names
        assert {"repro_mdx_a", "repro_mdx_a_time_only", "repro_mdx_a_hybrid_only", "umxhq", "umxl"} <= names
        assert not any(re.fullmatch("[0-9a-f]{8}", name) for name in names)  # members aren't listed
        assert find_model("955717e8").listed is False

    def test_every_file_has_a_hash_or_says_that_it_has_none(self):
        without = [spec for spec in registry().values() if any(f.sha256 is None for f in spec.files)]
        assert [spec.name for spec in without] == ["hdemucs_high_musdb"]
        assert "No hash" in without[0].note

    def test_hashes_in_names_are_the_beginnings_of_the_digests(self):
        named = [
            (f, m) for f in every_file() if f.url and (m := re.search(r"[-_]([0-9a-f]{8})\.(th|pth)$", f.url))
        ]
        assert len(named) == 39
        for file, match in named:
            assert file.sha256 is not None and file.sha256.startswith(match[1]), file.url

    def test_every_address_is_https(self):
        assert all(f.url is None or f.url.startswith("https://") for f in every_file())

    def test_no_file_has_two_different_hashes(self):
        known: dict[str | None, str | None] = {}
        for file in every_file():
            assert known.setdefault(file.url or file.name, file.sha256) == file.sha256

    def test_bags_of_demucs(self):
        assert [m.name for m in members(find_model("htdemucs_ft"), ["other"])] == ["92cfc3b6"]
        mdx = find_model("mdx")
        assert mdx.bag is not None and mdx.segment_s == 44
        assert mdx.bag.weights == ((1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 1, 1), (1, 0, 1, 1))
        assert [m.name for m in members(mdx, ["vocals"])] == ["c511e2ab", "7d865c68"]
        assert [m.name for m in members(mdx, ["bass"])] == ["0d19c1c6", "7ecf8ec1"]
        assert len(members(find_model("repro_mdx_a"))) == 4

    def test_every_entry_says_what_its_weights_may_be_used_for(self):
        assert all(spec.license for spec in registry().values())
        assert "CC-BY-NC" in find_model("umxl").license
        assert "scientific" in find_model("htdemucs").license_note

    def test_families_and_arguments_exist(self):
        from stemsplit import models

        for spec in registry().values():
            if spec.family in models.FAMILIES:
                fields = models.family(spec.family).Arguments.__dataclass_fields__
                assert set(spec.arguments) <= set(fields), spec.name

    def test_sizes_of_the_hub_files(self):
        sizes = {f.name: f.size for f in every_file()}
        assert sizes["955717e8.safetensors"] == 84_025_440 and sizes["5c90dfd2.safetensors"] == 54_885_744


class TestListing:
    def test_a_stem_sorts_by_its_score(self):
        found = list_models("vocals")
        scores = [spec.score("vocals") for spec in found]
        scored = [score for score in scores if score is not None]
        assert scored == sorted(scored, reverse=True) and scores == scored + [None] * (
            len(scores) - len(scored)
        )
        assert {"htdemucs", "bs_roformer_viperx"} <= {spec.name for spec in found}

    def test_only_models_that_give_the_stem(self):
        assert [spec.name for spec in list_models("piano")] == ["htdemucs_6s", "six_stems"]
        assert "mel_band_roformer_kim" in {spec.name for spec in list_models("other")}  # as the residual

    def test_unknown_names_come_with_a_suggestion(self):
        with pytest.raises(UnknownNameError) as caught:
            find_model("htdemuks")
        assert caught.value.hint == "did you mean htdemucs?"
        with pytest.raises(UnknownNameError, match="no stem named 'kazoo'"):
            list_models("kazoo")


class TestUsersFile:
    def write(self, content: object) -> Path:
        path = folders.user_registry()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    def test_entries_are_merged_and_win(self):
        self.write({"models": {"mine": ENTRY, "htdemucs": ENTRY}})
        assert find_model("mine").own and list_models()[-1].name == "mine"
        assert find_model("htdemucs").stems == ("drums", "vocals")
        assert not find_model("htdemucs_ft").own

    def test_a_change_is_seen_at_once(self):
        path = self.write({"models": {"mine": ENTRY}})
        assert "mine" in registry()
        path.write_text("")
        os.utime(path, ns=(1, 1))
        assert "mine" not in registry()

    def test_a_bag_may_use_packaged_members(self):
        bag = {"members": ["955717e8", "f7e0c4bc"], "weights": [[1, 0, 1, 1], [1, 1, 0, 0]]}
        own = {**ENTRY, "stems": ["drums", "bass", "other", "vocals"], "bag": bag}
        del own["family"], own["files"]
        self.write({"models": {"both": own}})
        assert [m.name for m in members(find_model("both"), ["bass"])] == ["f7e0c4bc"]

    def test_a_folder_in_its_place_is_told(self, tmp_path, monkeypatch):
        folders.user_registry().mkdir(parents=True)
        with pytest.raises(SettingsError, match="models.yaml: is a folder"):
            list_models()
        monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path))
        with pytest.raises(SettingsError, match=f"^STEMSPLIT_REGISTRY={re.escape(str(tmp_path))}: is a f"):
            find_model("tiny")

    @pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes of POSIX")
    def test_no_regular_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("STEMSPLIT_REGISTRY", os.devnull)
        assert "tiny" in registry()
        os.mkfifo(tmp_path / "pipe")
        monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "pipe"))
        with pytest.raises(SettingsError, match="pipe: is not a regular file"):
            registry()

    def test_a_byte_order_mark_is_no_content(self):
        self.write("\ufeff" + yaml.safe_dump({"models": {"mine": ENTRY}}))
        assert find_model("mine").own

    @pytest.mark.parametrize(
        "text", ["models: [", "- a", "models: 3", "\0", "models: {a: !!python/name:os.system ''}"]
    )
    def test_what_is_no_registry_is_told(self, text):
        path = self.write(text)
        with pytest.raises(SettingsError, match=re.escape(str(path))):
            registry()


def changed(path: str, value: object) -> dict[str, object]:
    entry = copy.deepcopy(ENTRY)
    *parents, last = path.split(".")
    place: object = entry
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return entry


HUB = {"repo": "a/b", "revision": "0" * 40, "name": "m.safetensors"}
BAG = {"members": ["a", "b"], "weights": [[1, 0], [0, 1]]}


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("stems", ..., ": stems is missing"),
        ("stems", "drums", ".stems: must be a list of names, is 'drums'"),
        ("stems", [], ".stems: must be a list of names"),
        ("stems", ["a", "a"], ".stems: names something twice"),
        ("sample_rate", "44100", ".sample_rate: must be a positive whole number, is '44100'"),
        ("sample_rate", True, ".sample_rate: must be a positive whole number, is True"),
        ("segment_s", -1, ".segment_s: must be a number, not below 0, is -1"),
        ("segment_s", float("nan"), ".segment_s: must be a number, not below 0, is nan"),
        ("license", ..., ": license is missing"),
        ("famly", "a", ".famly: no such key; did you mean family?"),
        ("family", ..., ": needs either a family, a bag or a recipe"),
        ("bag", BAG, ": needs either a family, a bag or a recipe"),
        ("residual", "drums", ".residual: the residual is one of the stems"),
        ("arguments", [1], ".arguments: must be keys with values, is a list"),
        ("files", {"url": "x"}, ".files: must be a list, is keys with values"),
        ("files.0.url", ..., ".files.0: needs hub, url or path"),
        ("files.0.bundled", 3, ".files.0.path: must be text, is 3"),
        (
            "files.0.sha256",
            "xyz",
            ".files.0.sha256: must be 8 to 64 hexadecimal digits in quotes, in lower case",
        ),
        ("files.0.sha256", "0123ABCD", ".files.0.sha256: must be 8 to 64"),
        ("files.0.sha256", 12345678, ".files.0.sha256: must be 8 to 64"),
        ("files.0.sha256", "0" * 7, ".files.0.sha256: must be 8 to 64"),
        ("files.0.size", 0, ".files.0.size: must be a positive whole number, is 0"),
        ("files.0.hub", {**HUB, "revision": "main"}, ".files.0.hub.revision: must be 40 hexadecimal digits"),
        ("files.0.hub", {**HUB, "repo": "b"}, ".files.0.hub.repo: must be OWNER/REPO, is 'b'"),
        ("files.0.hub", {**HUB, "branch": "x"}, ".files.0.hub.branch: no such key"),
        ("files.0.otherwise", {"sha256": "01234567"}, ".files.0.otherwise: needs hub, url or path"),
        ("scores", {"metric": "cSDR"}, ".scores.0: data is missing"),
        (
            "scores",
            {"metric": "cSDR", "data": "x", "piano": 3},
            ".scores.0.piano: no such key; choose from drums, v",
        ),
        ("inference", {"overlap": 1}, ".inference.overlap: must be a number, not below 0, and below 1, is 1"),
    ],
)
def test_malformed_entries_are_told_where(path, value, said):
    with pytest.raises(SettingsError, match=rf"^test: models\.x{re.escape(said)}"):
        parse_registry(Document({"models": {"x": changed(path, value)}}, "test"))


def test_an_empty_key_is_as_good_as_none():
    entry = {**ENTRY, "note": None, "segment_s": None, "arguments": None, "bag": None, "inference": None}
    entry["files"] = [{**ENTRY["files"][0], "prefix": None}]
    found = [parse_registry(Document({"models": {"x": one}}, "test"))["x"] for one in (ENTRY, entry)]
    assert found[0] == found[1]


def test_the_line_is_told_where_an_entry_repeats_another():
    text = """\
models:
  a: &a
    family: htdemucs
    stems: [drums, vocals]
    sample_rate: none
    license: MIT
"""
    correct = text.replace("none", "44100") + "  b:\n    <<: *a\n"
    assert parse_registry(parse(correct, "own"))["b"].sample_rate == 44100
    for more, said in (
        ("bogus: 1", "own:9: models.b.bogus: no such key"),
        ("files: 1", "own:9: models.b.files"),
    ):
        with pytest.raises(SettingsError, match=f"^{said}"):
            parse_registry(parse(f"{correct}    {more}\n", "own"))
    with pytest.raises(SettingsError, match=r"^own:5: models\.a\.sample_rate: must be a positive"):
        parse_registry(parse(text, "own"))
    with pytest.raises(SettingsError, match="^own:7: a: is defined a second time"):
        parse_registry(parse(text + "  a: {}\n", "own"))


@pytest.mark.parametrize(
    "bag, said",
    [
        ({"members": ["a", "b"], "weights": [[1, 1]]}, "2 members but 1 rows"),
        ({"members": ["a"], "weights": [[1]]}, "needs 2 values"),
        ({"members": ["a"], "weights": [[1, 0]]}, "a stem has no weight"),
        ({"members": ["a"], "weights": [[1, -1]]}, "bag.weights: must be a list of lists of numbers"),
        ({"members": ["a"], "weights": "1"}, "bag.weights: must be"),
        ({}, "bag: members is missing"),
    ],
)
def test_malformed_bags_are_told_where(bag, said):
    entry = {**ENTRY, "bag": bag}
    del entry["family"], entry["files"]
    with pytest.raises(SettingsError, match=said):
        parse_registry(Document({"models": {"x": entry}}, "test"))


@pytest.mark.parametrize("member", ["nobody", "htdemucs_ft", "htdemucs_6s"])
def test_members_of_bags_are_single_models_with_the_same_stems(member):
    entry = {**ENTRY, "stems": ["drums", "bass", "other", "vocals"], "bag": {"members": [member]}}
    del entry["family"], entry["files"]
    TestUsersFile().write({"models": {"x": entry}})
    with pytest.raises(SettingsError, match=f"x: member {member} must be"):
        registry()


def test_one_name_in_both_sections_is_refused():
    with pytest.raises(SettingsError, match="models.x: is defined twice"):
        parse_registry(Document({"models": {"x": ENTRY}, "members": {"x": ENTRY}}, "test"))


def test_looking_models_up_loads_no_torch():
    code = (
        "import sys; from stemsplit.hub import manage, registry, describe; registry.list_models(); "
        "describe.describe_model('mdx'); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("inside", [True, False], ids=["wheel", "source"])
def test_found_in_a_wheel_and_in_a_source_tree(tmp_path, inside):
    """The file is inside the package in a wheel, and beside it in a checkout or source archive."""
    source = PACKAGE / "models.yaml" if (PACKAGE / "models.yaml").exists() else PACKAGE.parent / "models.yaml"
    ignore = shutil.ignore_patterns("__pycache__", "models.yaml")
    shutil.copytree(PACKAGE, tmp_path / "site" / "stemsplit", ignore=ignore)
    shutil.copy(source, tmp_path / "site" / ("stemsplit" if inside else "."))
    code = "from stemsplit.hub import registry as r; print(r.__file__, len(r.list_models()), r._packaged())"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    file, count, packaged = said.stdout.split()
    assert Path(file).is_relative_to(tmp_path) and Path(packaged).is_relative_to(tmp_path)
    assert int(count) == len(list_models())


PARAMETERS = {
    "demucs": 265_679_496,
    "demucs48_hq": 149_462_504,
    "tasnet": 10_977_872,
    "hdemucs_high_musdb_plus": 83_637_832,
    "bs_roformer": 131_704_100,
    "bs_roformer_viperx": 159_758_028,
    "mel_band_roformer_kim": 228_202_788,
    "scnet": 10_578_768,
    "scnet_large": 42_181_232,
    "scnet_xl_ihf": 53_466_800,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_arguments_make_the_released_network(name):
    """The network has as many trainable parameters as the published checkpoint."""
    from stemsplit.hub.checkpoints import Package, empty_network

    spec = find_model(name)
    network = empty_network(Package(Path(name), str(spec.family), spec.arguments, {}))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PARAMETERS[name]
    assert (network.stems, network.sample_rate) == (spec.stems, spec.sample_rate)
