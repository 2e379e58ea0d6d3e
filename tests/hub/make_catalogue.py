"""Make `stemsplit/hub/catalogue.json` from a list of the checkpoints that other programs name.

    python -m tests.hub.make_catalogue LIST.json [MORE.json]

LIST.json has `rows`: name, aliases, labels, family, files (urls, size, sha256, md5), config (a published
configuration, where one is at hand), config_where (URLs of the checkpoint's own YAML file), config_inferred
(what the file's size says about the arguments), stems, target, what, licence, scores, origin, and
`stemsplit.registry` for a model of `models.yaml`. MORE.json has family, arguments and stems by row name, or
the reason why a row can't be run.

Everything that isn't in the list is in the tables of this file: short names, tasks, and the order of sources.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from stemsplit.errors import StemsplitError
from stemsplit.hub import catalogue
from stemsplit.hub.entries import FileSpec
from stemsplit.hub.registry import registry
from stemsplit.models import FAMILIES, build, family
from stemsplit.models.d3net import RELEASED
from stemsplit.models.lasaft import LaSAFTArguments
from stemsplit.stems import canonical_stems

Row = Mapping[str, Any]

# Short names, for checkpoints that people ask for by another name than their file's
SHORT = {
    "BS-Roformer-SW": "bs_roformer_sw",
    "logic_bs_roformer": "bs_roformer_logic",
    "BS-Roformer-Resurrection": "bs_roformer_resurrection",
    "BS-Roformer-Resurrection-Inst": "bs_roformer_resurrection_inst",
    "bs_roformer_voc_hyperacev2": "hyperace_v2_vocals",
    "bs_roformer_inst_hyperacev2": "hyperace_v2_inst",
    "bs_hyperace": "hyperace_inst",
    "model_bs_polarformer_float16": "polarformer",
    "model_bs_roformer_ep_368_sdr_12.9628": "bs_roformer_viperx_1296",
    "model_bs_roformer_ep_937_sdr_10.5309": "bs_roformer_viperx_1053",
    "model_mel_band_roformer_ep_3005_sdr_11.4360": "mel_band_roformer_viperx",
    "model_mel_band_roformer_karaoke_aufr33_viperx_sdr_10.1956": "karaoke_aufr33_viperx",
    "mel_band_roformer_karaoke_gabox_v2": "karaoke_gabox_v2",
    "mel_band_roformer_karaoke_gabox": "karaoke_gabox",
    "mel_band_roformer_karaoke_becruily": "karaoke_becruily",
    "bs_roformer_karaoke_frazer_becruily": "karaoke_frazer_becruily",
    "bs_roformer_karaoke_anvuew": "karaoke_anvuew",
    "dereverb_mel_band_roformer_anvuew_sdr_19.1729": "dereverb_anvuew",
    "dereverb_mel_band_roformer_less_aggressive_anvuew_sdr_18.8050": "dereverb_anvuew_gentle",
    "dereverb_mel_band_roformer_mono_anvuew": "dereverb_anvuew_mono",
    "dereverb_bs_roformer_anvuew_sdr_22.5050": "dereverb_bs_anvuew",
    "dereverb_room_anvuew_sdr_13.7432": "dereverb_room",
    "dereverb-echo_mel_band_roformer_sdr_10.0169": "dereverb_echo_sucial",
    "dereverb-echo_mel_band_roformer_sdr_13.4843_v2": "dereverb_echo_sucial_v2",
    "dereverb_echo_mbr_fused_0.5_v2_0.25_big_0.25_super": "dereverb_echo_fused",
    "denoise_mel_band_roformer_aufr33_sdr_27.9959": "denoise_aufr33",
    "denoise_mel_band_roformer_aufr33_aggr_sdr_27.9768": "denoise_aufr33_strong",
    "mel_band_roformer_crowd_aufr33_viperx_sdr_8.7144": "crowd",
    "aspiration_mel_band_roformer_sdr_18.9845": "breath",
    "MDX23C-DrumSep-aufr33-jarredou": "drumsep",
    "drumsep_5stems_mdx23c_jarredou": "drumsep_5",
    "model_drumsep": "drumsep_htdemucs",
    "MDX23C-8KFFT-InstVoc_HQ": "mdx23c",
    "MDX23C-8KFFT-InstVoc_HQ_2": "mdx23c_hq_2",
    "MDX23C-De-Reverb-aufr33-jarredou": "dereverb_mdx23c",
    "MDX23C_D1581": "mdx23c_d1581",
    "UVR-MDX-NET-Inst_HQ_1": "mdx_inst_hq_1",
    "UVR-MDX-NET-Inst_HQ_2": "mdx_inst_hq_2",
    "UVR-MDX-NET-Inst_HQ_3": "mdx_inst_hq_3",
    "UVR-MDX-NET-Inst_HQ_4": "mdx_inst_hq_4",
    "UVR-MDX-NET-Inst_HQ_5": "mdx_inst_hq_5",
    "UVR-MDX-NET-Voc_FT": "mdx_voc_ft",
    "UVR_MDXNET_KARA": "mdx_karaoke",
    "UVR_MDXNET_KARA_2": "mdx_karaoke_2",
    "Kim_Vocal_1": "mdx_kim_vocal_1",
    "Kim_Vocal_2": "mdx_kim_vocal_2",
    "Kim_Inst": "mdx_kim_inst",
    "Reverb_HQ_By_FoxJoy": "mdx_reverb_hq",
    "UVR-MDX-NET_Crowd_HQ_1": "mdx_crowd_hq",
    "UVR-De-Echo-Normal": "uvr_deecho",
    "UVR-De-Echo-Aggressive": "uvr_deecho_strong",
    "UVR-DeEcho-DeReverb": "uvr_deecho_dereverb",
    "UVR-DeNoise": "uvr_denoise",
    "UVR-DeNoise-Lite": "uvr_denoise_lite",
    "UVR-DeReverb-aufr33-jarredou_4band_v4_ms_fullband": "uvr_dereverb",
    "UVR-BVE-4B_SN-44100-1": "uvr_backing_vocals",
    "model_bandit_plus_dnr_sdr_11.47": "bandit",
    "checkpoint-multi_fixed": "bandit_v2",
    "Apollo_LQ_MP3_restoration": "apollo",
    "apollo_model_uni": "apollo_universal",
    "model_apollo_vocals_ep_54": "apollo_vocals",
    "pytorch_model": "apollo_jusperlee",
    "melband_roformer_big_beta4": "mel_band_roformer_big_beta4",
    "melband_roformer_inst_v1": "unwa_inst_v1",
    "melband_roformer_inst_v2": "unwa_inst_v2",
    "melband_roformer_instvoc_duality_v1": "unwa_duality_v1",
    "melband_roformer_instvox_duality_v2": "unwa_duality_v2",
    "mel_band_roformer_vocals_becruily": "becruily_vocals",
    "mel_band_roformer_instrumental_becruily": "becruily_inst",
    "mvsep_mega_model_bs_roformer_53_stems_v1": "mvsep_mega_53",
    "model_bs_roformer_ep_17_sdr_9.6568": "bs_roformer_musdb",
    "MelBandRoformer4StemFTLarge": "mel_band_roformer_4stems",
    "ver2": "mel_band_roformer_4stems_v2",
    "model": "syhft_b1_1",
    "model2": "syhft_b1_2",
    "model3": "syhft_b1_3",
    "model_scnet_ep_54_sdr_9.8051": "scnet_xl",
    "demucs": "demucs_v1",
    "demucs_extra": "demucs_v1_extra",
    "light": "demucs_v1_light",
    "light_extra": "demucs_v1_light_extra",
    "tasnet": "tasnet_v1",
    "tasnet_extra": "tasnet_v1_extra",
    "model_vocals_htdemucs_sdr_8.78": "htdemucs_vocals_mvsep",
    "model_htdemucs_ep_21_sdr_13.6970": "phantom_center_htdemucs",
    "model_mdx23c_ep_271_l1_freq_72.2383": "phantom_center_mdx23c",
    "bs_roformer_male_female_by_aufr33_sdr_7.2889": "male_female_aufr33",
    "d3net-mss": "d3net",
    "x-umx": "xumx",
    "lasaft_large_2020": "lasaft",
    "wave-u-net-pytorch": "wave_u_net",
    "wave-u-net M4 (baseline_stereo)": "wave_u_net_m4",
    "wave-u-net M5-HighSR (full_44KHz)": "wave_u_net_m5",
    "wave-u-net M6 (full_multi_instrument)": "wave_u_net_m6",
    "pretrained_xumx": "xumx_asteroid",
    "pretrained_xumxl": "xumxl_asteroid",
    "resunet143_ismir2021_vocals_8.9dB_350k_steps": "resunet_decouple_vocals",
    "resunet143_ismir2021_accompaniment_16.8dB_350k_steps": "resunet_decouple_accompaniment",
    "model_chorus_bs_roformer_ep_267_sdr_24.1275": "male_female_sucial",
}

SPLEETER = {
    f"spleeter:{n}stems{khz}": f"spleeter-{n}stems{khz.lower()}" for n in "245" for khz in ("", "-16kHz")
}

# Files and folders in archives, by the names that their programs' instructions use
MEMBERS = {
    "wave-u-net-pytorch": "waveunet/model",
    "wave-u-net M4 (baseline_stereo)": "baseline_stereo",
    "wave-u-net M5-HighSR (full_44KHz)": "full_44KHz",
    "wave-u-net M6 (full_multi_instrument)": "full_multi_instrument",
}

# sha256 of archives that their authors' programs compare with (spleeter, tests/test_github_model_provider.py)
DIGESTS = {
    "2stems.tar.gz": "f3a90b39dd2874269e8b05a48a86745df897b848c61f3958efc80a39152bd692",
    "4stems.tar.gz": "3adb4a50ad4eb18c7c4d65fcf4cf2367a07d48408a5eb7d03cd20067429dfaa8",
    "5stems.tar.gz": "25a1e87eb5f75cc72a4d2d5467a0a50ac75f05611f877c278793742513cc7218",
}

# Arguments that a configuration doesn't state, by the variant that a row names
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "shared_bias": {"use_shared_bias": True},
    "pope": {"use_pope": True},
    "value_residual": {"use_value_residual_learning": True},
    "siamese": {"siamese": True},
    "hyperace_v1": {"mask_estimator": "hyperace_v1", "zero_dc": False},
    "hyperace_v2": {"mask_estimator": "hyperace_v2", "zero_dc": False},
    "fno": {"mask_estimator": "fno", "zero_dc": False},
    "large_inst": {"mask_estimator": "deep", "zero_dc": False},
}
# Sizes of VR networks by that of their file in KiB; of v5.1 the channels that they have if UVR states none
VR_SIZES: Mapping[int, Mapping[str, int]] = {
    31_191: {"ch": 16, "encoders": 4, "aspp_layers": 5},
    33_966: {"ch": 16, "encoders": 4, "aspp_layers": 7},
    123_812: {"ch": 32, "encoders": 4, "aspp_layers": 5},
    129_605: {"ch": 16, "encoders": 5, "aspp_layers": 6},
    537_227: {"ch": 64, "encoders": 4, "aspp_layers": 7},
}
VR_51 = {56_817: 32, 218_409: 64}
FAMILY_OF = {"masked": "scnet_masked", "tran": "scnet_tran"}

# Task by what a row's names, labels, purpose and stems say; the first pattern that is found decides
TASKS = (
    ("karaoke", r"karao|_kara\b|kara_2|bve|backing.?vocal|lead.?back"),
    ("dereverb", r"de.?reverb|no ?reverb|reverb_hq|deverb"),
    ("deecho", r"de.?echo"),
    ("denoise", r"de.?noise|harmonic_noise"),
    ("crowd", r"crowd"),
    ("breath", r"breath|aspiration"),
    ("bleed", r"bleed.?suppress"),
    ("restoration", r"apollo|restor"),
    ("drums", r"drumsep|drum_stems|kick"),
    ("speech", r"speech|dnr|bandit|cinematic|sfx"),
    ("singers", r"male|choir|duet|chorus"),
    ("space", r"phantom|centre|center|spatial|similarity|mono_stereo"),
    (
        "instrument",
        r"mega_53|single_instrument|guitar|strings|orchestra|(?<!pyt)orch|wind_inst|woodwind|drum-bass",
    ),
    (
        "stems",
        r"4.?stem|four.?stem|six_stem|6.?stem|multi_stem|drums.*bass.*vocals|vocals.*drums|jazz|drums bass",
    ),
    ("drums", r"drums"),
    ("instrument", r"bass|piano"),
    ("instrumental", r"instrumental|\binst\b|_inst|inst_|accompaniment|_hp2?-uvr|mgm_|sp-uvr"),
    ("vocals", r"voc|voices"),
)


def added(name: str, family: str, stems: Iterable[str], url: str, **more: Any) -> dict[str, Any]:
    """Return a row that the list lacks."""
    file = {"names": [name], "urls": [url], "size": None, "sha256": None, "md5": None}
    empty = dict.fromkeys(("variant", "config", "target", "what", "licence", "source", "pymss_target"))
    lists = {"aliases": [], "labels": [], "config_where": [], "config_inferred": None, "scores": {}}
    own = {
        "name": name,
        "family": family,
        "stems": list(stems),
        "files": [file],
        "stemsplit": {"registry": None},
    }
    return {**empty, **lists, **own, **more}


RESUNET = {"model": "ResUNet143_DecouplePlusInplaceABN_ISMIR2021", "input_channels": 2, "sample_rate": 44_100}
LASAFT = LaSAFTArguments()
# LASAFT-Net-v2's checkpoints at 56ec6cc of its repository, with git's hashes of its tree, and their arguments
# (lasaft/pretrained/*/config.yaml)
LASAFT_V2: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "large": ("epoch%3D709.ckpt", "b9fb56e423bb2dd200649c609626d974c291acf7", {}),
    "light": (
        "epoch%3D669.ckpt",
        "dfe269aa25b378856cef9dc9e93de96792e36941",
        {
            **{"n_fft": 2048, "n_blocks": 7, "internal_channels": 20, "embedding_dim": 32, "num_tdfs": 12},
            "activation": "leaky_relu",
        },
    ),
}
LASAFT_V2_URL = (
    "https://raw.githubusercontent.com/ws-choi/LASAFT-Net-v2/56ec6cc6908ab0ffc9dcdff97fcd1ed7c43a46d2"
)
FOUR = ("bass", "drums", "other", "vocals")
# Rows of the list without an address, and those that take their place. bytesep's addresses are those of its
# own download script of 2021-12-25, asteroid's those of its table of models, CWS-PResUNet's those of its
# predictor.py.
WITHOUT_ADDRESS = ("resunet143_ismir2021", "wave-u-net-pytorch")
# Rows that are a model of models.yaml, or a part of one
REGISTERED = {"KUIELab-MDX-Net": "mdx_kuielab_a", "kuielab mixer (leaderboard_A)": "mdx_kuielab_a"}
ADDED = (
    *(
        added(
            f"resunet143_ismir2021_{stem}_{score}dB_350k_steps.pth",
            "bytesep",
            [stem],
            f"https://zenodo.org/record/5513378/files/resunet143_ismir2021_{stem}_{score}dB_350k_steps.pth",
            config=RESUNET,
            aliases=["resunet143_ismir2021"] if stem == "vocals" else [],
        )
        for stem, score in (("vocals", "8.9"), ("accompaniment", "16.8"))
    ),
    *(
        added(
            name,
            "xumx",
            FOUR,
            f"https://zenodo.org/record/{record}/files/{name}",
            what="four stems: drums bass vocals",
        )
        for name, record in (("pretrained_xumx.pth", 4704231), ("pretrained_xumxl.pth", 7128659))
    ),
    *(
        added(
            f"cws_presunet_{stem}.ckpt",
            "cws_presunet",
            stems,
            f"https://zenodo.org/record/5175846/files/{name}_trimed.ckpt",
            aliases=[f"{name}_trimed.ckpt".replace("%3D", "=")],
            config={"joint": stem == "other", "stems": stems},
            what="vocals" if stem == "vocals" else "drums bass other",
        )
        for stem, stems, name in (
            ("vocals", ["vocals"], "epoch%3D49-val_loss%3D0.0902"),
            ("other", ["bass", "drums", "other"], "epoch%3D33-val_loss%3D0.4293"),
        )
    ),
    added(
        "wave-u-net-pytorch",
        "wave_u_net",
        FOUR,
        "https://www.dropbox.com/s/r374hce896g4xlj/models.7z?dl=1",
        what="four stems: drums bass vocals",
        licence="MIT (code; weights not stated)",
    ),
    added(
        "lasaft_large_2020.ckpt",
        "lasaft",
        LASAFT.sources,
        "",
        # size and sha256 are those that the repository's pointer to the file states
        files=[
            {
                "names": ["lasaft_large_2020.ckpt"],
                "urls": [
                    "https://github.com/ws-choi/Conditioned-Source-Separation-LaSAFT/raw/main/assets/lasaft_large_2020.ckpt"
                ],
                "size": 378_945_635,
                "sha256": "d14d2dd27ed568f552be88e9ed4d8bb8ca2722e03c936ea16e8e260ab49da9f1",
                "md5": None,
            }
        ],
        what="four stems: drums bass vocals",
        licence="MIT (code; weights not stated)",
    ),
    *(
        added(
            f"lasaft_v2_{size}",
            "lasaft_v2",
            LASAFT.sources,
            "",
            aliases=["LASAFT-Net-v2" if size == "large" else "LASAFT-Net-v2 (light)"],
            files=[
                {
                    "names": [],
                    "urls": [f"{LASAFT_V2_URL}/lasaft/pretrained/v2_{size}/{name}"],
                    **{"size": None, "sha256": None, "md5": None, "git": git},
                }
            ],
            config=arguments,
            what="four stems: drums bass vocals",
            licence="MIT (code; weights not stated)",
        )
        for size, (name, git, arguments) in LASAFT_V2.items()
    ),
)

# Hosts that keep copies; the author's own place is tried before them
COPIES = (
    r"github\.com/TRvlvr",
    r"huggingface\.co/baicai1145",
    r"github\.com/nomadkaraoke",
    r"huggingface\.co/(Eddycrack864|Politrees|Sucial/MSST-WebUI|RareSirMix|noblebarkrr|jarredou)",
    r"raw\.githubusercontent\.com",
    r"modelscope\.cn",
)

# Arguments that the number and the shapes of the weights depend on
STRUCTURE = (
    *("dim", "depth", "stereo", "num_stems", "time_transformer_depth", "freq_transformer_depth"),
    *("mask_estimator_depth", "mlp_expansion_factor"),
)

SIGNATURES: dict[str, str] = {}  # name of a bag's member by its signature

# families whose released networks all have the same shapes
FIXED = ("xumx", "d3net", "bytesep", "cws_presunet", "wave_u_net", "first_wave_u_net")
UNFIT = re.compile(r"\.zip\.\d+$")
DEMUCS = (
    'The code is MIT. Of the weights the author wrote "only for scientific purposes" (issues 327 and 508).'
)
DATE = "2026-11-28"


def main(source: str, more: Iterable[str] = ()) -> None:
    listed = json.loads(Path(source).read_text(encoding="utf-8"))["rows"]
    rows = [row for row in listed if row["name"] not in WITHOUT_ADDRESS] + list(ADDED)
    SIGNATURES.update({signature(row): stem_of(row["name"]) for row in rows if signature(row)})
    known: dict[str, Row] = {}
    for path in more:
        known |= json.loads(Path(path).read_text(encoding="utf-8"))
    models = registry()
    registered = {
        name: [file.name for file in spec.files if len(spec.files) == 1 for file in chain(file)]
        for name, spec in models.items()
        if not name.startswith("kuielab_")  # members, whose files other entries have too
    }
    entries: list[dict[str, Any]] = []
    taken = {name.lower() for name in models}
    for row in rows:
        if part_of := REGISTERED.get(row["name"]):
            registered[part_of].append(row["name"])
            continue
        own = row["stemsplit"]["registry"]
        if own:
            registered[own].extend(names_of(row))
            continue
        name = {**SHORT, **SPLEETER}.get(stem_of(row["name"]), stem_of(row["name"]))
        name = f"{row['family']}_{name}" if name.lower() in taken else name
        taken.add(name.lower())
        entries.append(entry(row, name, known.get(row["name"], {})))
    spoken_for = {name.lower() for names in registered.values() for name in names} | set(models)
    for made in entries:
        made["aliases"] = [a for a in made.get("aliases", ()) if a.lower() not in spoken_for]
        spoken_for.update(a.lower() for a in made["aliases"])
    lines = ",\n".join(json.dumps(made, ensure_ascii=False) for made in sorted(entries, key=order))
    aliases = {
        name: list(dict.fromkeys(alias for alias in names if alias not in models))
        for name, names in sorted(registered.items())
        if names
    }
    catalogue.FILE.write_text(
        f'{{"registered": {json.dumps(aliases, ensure_ascii=False, indent=1)},\n"models": [\n{lines}\n]}}\n',
        encoding="utf-8",
    )


def chain(file: FileSpec | None) -> list[FileSpec]:
    return [] if file is None else [file, *chain(file.otherwise)]


def signature(row: Row) -> str:
    """Return the first part of the name of a demucs package, by which bags call it."""
    match = re.fullmatch(r"(\w+)-[0-9a-f]{8}\.th", row["name"])
    return match[1] if match and not row["stemsplit"]["registry"] else ""


def order(made: Row) -> tuple[str, str]:
    return made.get("family", "demucs"), made["name"].lower()


def stem_of(name: str) -> str:
    return re.sub(r"\.(ckpt|pth|onnx|th|bin|pt|safetensors|zip\.001)$", "", name)


def names_of(row: Row) -> list[str]:
    alone = len(row["files"]) == 1 and row["name"] not in MEMBERS
    files = [name for file in row["files"] for name in file["names"]] if alone else []
    names = [row["name"], *filter(None, [signature(row)]), *row["aliases"], *row["labels"], *files]
    every = [found for name in names for found in (name, stem_of(name))]
    return list(dict.fromkeys(name for name in every if len(name) > 2))


def entry(row: Row, name: str, known: Row) -> dict[str, Any]:
    """Return the entry of a row."""
    files = [file for file in map(file_of, row["files"]) if file and "openvino" not in file["url"]]
    if row["variant"] in FAMILY_OF:
        row = {**row, "family": FAMILY_OF[row["variant"]]}
    known = known or kuielab(row) or vr(row) or cited(row)
    arguments, why = arguments_of(row, known)
    made: dict[str, Any] = {
        "name": name,
        "aliases": [alias for alias in names_of(row) if alias != name],
        "task": task_of(row),
        "family": known.get("family", row["family"]),
        "sample_rate": 44_100,
        **stems_of(row, known, arguments),
        **license_of(row),
        "note": note_of(row),
    }
    if row.get("members"):
        members = [SIGNATURES.get(member, member) for member in row["members"]]
        made["bag"] = {"members": members, "weights": row.get("weights") or []}
        made |= {"family": None, "segment_s": row.get("segment")}
    elif files:
        made["files"] = files
        if (
            made["family"] in FIXED
            and not row["name"].startswith("pretrained")
            and "sha256" not in files[0]
            and "size" not in files[0]
        ):
            files[0]["shaped"] = True
        if member := MEMBERS.get(row["name"]):
            files[0]["member"] = member
    if arguments is not None:
        made["arguments"] = plain(arguments, made["family"])
        network = outputs(made["family"], arguments)
        made |= {"stems": list(network.stems), "sample_rate": network.sample_rate}
    configs = sorted(filter(None, map(address, row["config_where"] or ())), key=rank)
    if configs and needs_yaml(row, known):
        made["config"] = [{"url": url} for url in dict.fromkeys(configs)]
        made["inferred"] = inferred_of(row, arguments)
        made["variant"] = dict(VARIANTS.get(row["variant"] or "", {}))
    made["scores"] = scores_of(row, made["stems"])
    made["reason"] = known.get("reason") or reason_of(row, made, why)
    return {key: value for key, value in made.items() if key == "stems" or value not in (None, "", [], {})}


def file_of(file: Row) -> dict[str, Any]:
    urls = list(dict.fromkeys(filter(None, map(address, file["urls"]))))
    if not urls:
        return {}
    urls.sort(key=rank)
    name = next(iter(file["names"]), "")
    digits = re.search(r"-([0-9a-f]{8})\.th$", name)  # demucs names its packages by their sha256
    sha256 = file["sha256"] or (digits[1] if digits else None) or DIGESTS.get(name)
    hashes = {"sha256": sha256, "md5": file["md5"], "git": file.get("git")}
    found = {"url": urls[0], "mirrors": urls[1:], **hashes, "size": file["size"]}
    return {key: value for key, value in found.items() if value}


def address(url: str) -> str:
    """Return the https URL of a source, empty if it names no file."""
    if match := re.fullmatch(r"(hf|modelscope):([^/]+/[^/]+)/(.+)", url):
        site, repo, name = match.groups()
        if site == "hf":
            return f"https://huggingface.co/{repo}/resolve/main/{name}"
        return f"https://modelscope.cn/models/{repo}/resolve/master/{name}"
    if match := re.fullmatch(
        r"https://zenodo\.org/(?:api/)?records?/(\d+)/files/([^/?]+)(?:/content)?(?:\?.*)?", url
    ):
        return f"https://zenodo.org/records/{match[1]}/files/{match[2]}?download=1"
    if match := re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/blob/(.+)", url):
        return f"https://raw.githubusercontent.com/{match[1]}/{match[2]}"
    if not url.startswith("https://") or "/tree/" in url:
        return ""
    if url.startswith("https://www.dropbox.com/"):
        return url  # whose query asks for the file instead of a page about it
    url = url.replace("/blob/", "/resolve/")
    return url.split("?")[0].replace("/refs/heads/", "/")


def rank(url: str) -> int:
    return next((i for i, copy in enumerate(COPIES, 1) if re.search(copy, url)), 0)


def kuielab(row: Row) -> Row:
    """Return what is known of a network of KUIELab's submission, as UVR runs it."""
    config = row["config"] or {}
    if row["family"] != "mdx_kuielab":
        return {}
    stem = re.sub(r".*_(\w+)\.onnx", r"\1", row["name"])
    taken = ("dim_f", "dim_t", "n_fft", "hop_length", "num_blocks", "l", "g", "k", "bn", "bias")
    stems = (stem, "instrumental" if stem == "vocals" else f"no {stem}")
    arguments = {**{key: config[key] for key in taken}, "stems": stems, "folded": True}
    return {"family": "mdx_net", "arguments": arguments, "stems": stems}


def vr(row: Row) -> Row:
    """Return what is known of a VR network: UVR tells its size by that of its file (in KiB, the nearest)."""
    if row["family"] != "vr":
        return {}
    config = row["config"] or {}
    if "uvr" in config:  # the hash of the file will tell
        return {"family": "vr_v51" if "nout" in config["uvr"] else "vr", "stems": []}
    if "vr" not in config:
        return {"reason": "the parameters of its bands aren't known"}
    size = min((*VR_SIZES, *VR_51), key=lambda kib: abs(kib - row["files"][0]["size"] / 1024))
    name = "vr_v51" if "nout" in config["vr"] or size in VR_51 else "vr"
    found = family(name).Arguments.from_config({"vr": config["vr"]})
    given = {field.name: getattr(found, field.name) for field in fields(found)}
    sizes = VR_SIZES[size] if name == "vr" else {"nout": config["vr"].get("nout", VR_51.get(size, 32))}
    return {"family": name, "arguments": given | sizes, "stems": found.stems}


def cited(row: Row) -> Row:
    """Return what is known of a network that papers compare with."""
    if row["family"] == "spleeter":
        return spleeter(row)
    if row["family"] == "xumx" and row["name"].endswith(".pth"):
        return {"family": "xumx", "stems": []}  # asteroid's files say what they are
    if row["family"] == "xumx":
        return {"family": "xumx", "arguments": {"sources": tuple(row["stems"])}, "stems": row["stems"]}
    if row["family"] == "d3net":
        return {"family": "d3net", "arguments": {}, "stems": tuple(RELEASED)}
    if row["family"] in ("cws_presunet", "lasaft_v2"):
        return {"family": row["family"], "arguments": row["config"], "stems": row["stems"]}
    if row["family"] == "wave_u_net":
        return wave_u_net(row)
    if row["family"] == "lasaft":
        return {"family": "lasaft", "arguments": {}, "stems": row["stems"]}
    if row["family"] != "bytesep":
        return {}
    config = {**row["config"], "model_type": row["config"]["model"], "target_source_types": row["stems"]}
    found = family("bytesep").Arguments.from_config({"train": config})
    arguments = {field.name: getattr(found, field.name) for field in fields(found)}
    return {"family": "bytesep", "arguments": arguments, "stems": row["stems"]}


def wave_u_net(row: Row) -> Row:
    """Return what is known of a Wave-U-Net of the first program, or of the second, which has the defaults."""
    if row["name"] == "wave-u-net-pytorch":
        return {"arguments": {}, "stems": row["stems"]}
    arguments = {
        "source_names": row["stems"],
        "learned_upsampling": row["config"]["upsampling"] == "learned",
        "expected_sr": row["config"]["expected_sr"],
    }
    return {"family": "first_wave_u_net", "arguments": arguments, "stems": row["stems"]}


def spleeter(row: Row) -> Row:
    """Return the arguments of one of Spleeter's networks, from its configuration."""
    config = row["config"]
    layers = config["model"]["params"]
    arguments = {
        "instrument_list": tuple(config["instrument_list"]),
        "F": config["F"],
        "softmax": config["model"]["type"] == "unet.softmax_unet",
        **layers,
    }
    return {"family": "spleeter", "arguments": arguments, "stems": config["instrument_list"]}


def needs_yaml(row: Row, known: Row) -> bool:
    """Whether the checkpoint's own YAML decides; VR's arguments are UVR's, known by name."""
    return (
        not known
        and row["family"] in FAMILIES
        and row["family"] not in ("vr", "mdx_net", "demucs", "hdemucs")
    )


def arguments_of(row: Row, known: Row) -> tuple[dict[str, Any] | None, str]:
    """Return the arguments that are known of a row, and why there are none."""
    name = known.get("family", row["family"])
    if "arguments" in known:
        return dict(known["arguments"]), ""
    if name not in FAMILIES:
        return None, f"its network ({name.replace('_', ' ')}) isn't one that stemsplit computes"
    if not row["config"] or name in ("mdx_net", "vr", "vr_v51") or row["name"].endswith(".th"):
        return None, ""  # UVR's table of hashes says what a graph doesn't; packages have their arguments
    config = dict(row["config"])
    if variant := VARIANTS.get(row["variant"] or ""):
        config["model"] = {**variant, **config.get("model", {})}
    try:
        found = family(name).Arguments.from_config(config)
        arguments = {field.name: getattr(found, field.name) for field in fields(found)}
        outputs(name, arguments)
    except (StemsplitError, AttributeError, KeyError, TypeError, ValueError) as error:
        return None, f"its configuration isn't one of a {name}: {error}"
    return arguments, ""


def outputs(name: str, arguments: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return build(name, arguments)


def plain(arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments that differ from the family's defaults, as JSON has them."""
    defaults = {
        field.name: field.default if field.default is not MISSING else None
        for field in fields(family(name).Arguments)
    }
    found = {key: value for key, value in arguments.items() if value != defaults.get(key, MISSING)}
    return json.loads(json.dumps(found))


def inferred_of(row: Row, arguments: Row | None) -> list[dict[str, Any]]:
    """Return what the size of the weights says, else what the known arguments say of the weights' shapes."""
    if row["config_inferred"] and arguments is None:
        candidates = row["config_inferred"]["candidates"]
        return [{key: one[key] for key in STRUCTURE if key in one} for one in candidates]
    return []


def stems_of(row: Row, known: Row, arguments: Row | None) -> dict[str, Any]:
    """Return the stems that a row is said to give, none if its files say; those of its YAML replace them."""
    if "stems" in known:
        return {"stems": list(canonical_stems(known["stems"])) if known["stems"] else []}
    if row.get("members"):
        return {"stems": row["stems"] if row["weights"] else []}
    if row["family"] in ("mdx_net", "demucs", "hdemucs", "htdemucs", "tasnet") and arguments is None:
        return {"stems": []}
    claimed = row["stems"] or [s for s in (row["pymss_target"] or "").split("/") if s]
    target = row["target"]
    try:
        stems = list(canonical_stems(claimed))
        if target:
            alone = canonical_stems([target])[0]
            rest = [stem for stem in stems if stem != alone]
            return {"stems": [alone], **({"residual": rest[0]} if len(rest) == 1 else {})}
    except StemsplitError:
        stems = []
    return {"stems": stems}


def task_of(row: Row) -> str:
    text = " ".join([row["name"], *row["labels"], row["what"] or "", *(row["stems"] or ())]).lower()
    return next((task for task, pattern in TASKS if re.search(pattern, text)), "other")


def license_of(row: Row) -> dict[str, str]:
    """Return licence, note, source and date."""
    said = row["licence"] or ""
    note = row.get("licence_note") or ""
    license = re.fullmatch(r"(MIT|GPL-3\.0|CC-BY-NC-SA-4\.0|Apache-2\.0)", said)
    if license and row["family"] in ("demucs", "hdemucs", "htdemucs", "tasnet"):
        return {"license": "not stated", "license_note": DEMUCS}
    if license is None:
        return {
            "license": "not stated",
            "license_note": "; ".join(part for part in (said, note) if part and part != "not stated"),
        }
    source = next((url for url in map(page, row_urls(row)) if url), "") or (row["source"] or "")
    return {"license": license[1], "license_note": note, "license_source": source, "license_date": DATE}


def row_urls(row: Row) -> list[str]:
    return sorted((address(url) for file in row["files"] for url in file["urls"]), key=rank)


def page(url: str) -> str:
    """Return the page of the repository that a URL's file is in."""
    match = re.match(r"https://(huggingface\.co|github\.com)/[^/]+/[^/]+", url)
    return match[0] if match else ""


# "MUSDB test avg: 9.18 (bass: 8.11, drums: 10.96 …)", "SDR vocals: 8.82", "L1Freq: 72.23" of MSST's tables
TABLE = re.compile(r"(MUSDB test|Multisong|DnR test) avg: ([\d.]+) \(([^)]*)\)")
SINGLE = re.compile(r"(SDR|L1Freq)(?: (\w+))?: ([\d.]+)")
DATA = {"MUSDB test": "MUSDB18-HQ test", "Multisong": "Multisong", "DnR test": "DnR test"}
METRIC = {"SDR": "SDR", "L1Freq": "l1_freq"}
UNSTATED = "a set that isn't stated"


def scores_of(row: Row, stems: list[str]) -> list[dict[str, Any]]:
    """Return the scores that audio-separator publishes, medians over tracks, and those of MSST's tables."""
    made = []
    for source, scores in (row["scores"] or {}).items():
        if source.startswith("audio-separator") and isinstance(scores, dict):
            made.append(median_scores(source, scores))
        elif isinstance(scores, str) and "MSST" in source:
            made += table_scores(source, scores, stems)
    kept = [{**one, "stems": {k: v for k, v in one["stems"].items() if k in stems}} for one in made]
    return [one for one in kept if one["stems"] or one.get("all") is not None]


def median_scores(source: str, scores: Row) -> dict[str, Any]:
    tracks = re.search(r"over (\d+)", source)
    named = {canonical_stems([stem])[0]: values for stem, values in scores.items()}
    found = {stem: values["SDR"] for stem, values in named.items() if values.get("SDR", -1) >= 0}
    data = f"{tracks[1]} tracks of MUSDB18" if tracks else "MUSDB18"
    return {"metric": "SDR", "data": data, "source": "audio-separator, models-scores.json", "stems": found}


def table_scores(source: str, text: str, stems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the scores of a cell of MSST's tables: its SDR of four stems is uSDR, the mean over tracks."""
    for data, mean, each in TABLE.findall(text):
        found = {
            canonical_stems([stem])[0]: float(score) for stem, score in re.findall(r"(\w+): ([\d.]+)", each)
        }
        yield {"metric": "uSDR", "data": DATA[data], "source": source, "all": float(mean), "stems": found}
    if not TABLE.search(text):
        for metric, stem, score in SINGLE.findall(text):
            one = canonical_stems([stem])[0] if stem else stems[0] if len(stems) == 1 else None
            if one is not None:
                found = {one: float(score)}
                yield {"metric": METRIC[metric], "data": UNSTATED, "source": source, "stems": found}


def note_of(row: Row) -> str:
    texts = {source: one for source, one in (row["scores"] or {}).items() if isinstance(one, str)}
    said = [
        f"{source}: {one}" for source, one in texts.items() if not (TABLE.search(one) or SINGLE.search(one))
    ]
    return "; ".join([*said, *(filter(None, [row.get("note"), row.get("alias_note")]))])


def reason_of(row: Row, made: Row, why: str) -> str:
    """Return why an entry can't be run, empty if it can."""
    if why and "config" not in made:
        return why
    if "bag" in made:
        return ""
    if not made.get("files"):
        return "no address of its file is known"
    if len(made["files"]) > 1 or UNFIT.search(made["files"][0]["url"]):
        return "its file is an archive"
    if made["family"] in ("demucs", "hdemucs", "htdemucs", "tasnet") and made["files"][0]["url"].split("?")[
        0
    ].endswith(".th"):
        return ""  # a package, which holds its arguments
    if made["family"] in ("mdx_net", "vr"):
        return ""  # known by its hash
    if made["family"] == "xumx":
        return ""  # of asteroid, which holds its arguments
    if "arguments" not in made and "config" not in made:
        return "its arguments aren't known, and no YAML file of it is"
    return ""


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
