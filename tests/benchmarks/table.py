"""The tables in README.md, from the JSON of a run."""

import textwrap
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
ROFORMERS = ("bs_roformer", "mel_band_roformer")  # that the headline speaks of
BEGIN, END = "<!-- speed.json -->", "<!-- end -->"


def lines(result: dict[str, Any]) -> list[str]:
    """Both tables."""
    return [*_inside(result["inside"]), "", *_whole(result["whole"])]


def _inside(found: dict[str, Any]) -> list[str]:
    rows = [
        "| network alone | × reference | CPU s per audio s | agreement | of the GEMM peak |",
        "|---|---|---|---|---|",
    ]
    for kind, one in found.items():
        variants = one["variants"]
        reference = next(iter(variants.values()))
        for name, variant in variants.items():
            share = one["flop"] / variant["cpu_s"] / one["gemm_flop_per_s"]["cpu"]
            rows.append(
                f"| {kind}, {name} | {reference['cpu_s'] / variant['cpu_s']:.2f} "
                f"| {variant['cpu_s'] / one['audio_s']:.3f} | {_decibels(variant)} | {100 * share:.0f} % |"
            )
    return rows


def _whole(found: dict[str, Any]) -> list[str]:
    rows = [
        "| whole program | audio | × demucs (wall) | × demucs (CPU) | wall | peak memory | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, lengths in found.items():
        for length, runs in lengths.items():
            reference = runs["demucs"]
            rows += [
                f"| {kind}, {name} | {length} s | {reference['wall_s'] / run['wall_s']:.2f} "
                f"| {reference['cpu_s'] / run['cpu_s']:.2f} | {run['wall_s']:.1f} s "
                f"| {run['peak_mb']:.0f} MB | {_decibels(run)} |"
                for name, run in runs.items()
            ]
    return rows


def families(result: dict[str, Any]) -> list[str]:
    """Seconds and memory of every family on one thread, and the share of the GEMM peak on two."""
    heads = ["family", "real time", "a chunk, CPU", "reference", "ratio", "memory", "reference's"]
    heads += ["of the GEMM peak"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in result["1"]["families"].items():
        *others, ours = found["packages"].values()
        cells = [f"{found['audio_s'] * (1 - found['overlap']) / ours['cpu_s']:.2f} ×"]
        cells += [f"{ours['cpu_s']:.1f} s"]
        cells += (
            [f"{others[0]['cpu_s']:.1f} s", f"{ours['cpu_s'] / others[0]['cpu_s']:.2f}"]
            if others
            else ["", ""]
        )
        cells += [f"{one['memory_mb']:.0f} MB" for one in (ours, *others[:1])]
        cells += [""] * (not others)
        share = _share(result["2"]["families"][name]) if name in result["2"]["families"] else ""
        rows.append(f"| `{name}` | {' | '.join(cells)} | {share} |")
    return [*rows, "", f"On one core of an {result['1']['cpu']}; the last column on two."]


def chunks(result: dict[str, Any]) -> list[str]:
    """Seconds and memory of a chunk on two threads, ours against other packages'."""
    heads = ["network", "audio", "reference", "its chunk", "stemsplit's", "× (wall)", "× (CPU)"]
    heads += ["of the GEMM peak", "agreement"]
    rows, rounds = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"], []
    for found in result["2"]["families"].values():
        *others, (_, ours) = found["packages"].items()
        for index, (package, theirs) in enumerate(others):
            cells = [found["model"], f"{found['audio_s']:.0f} s", package]
            cells += [f"{one['wall_s']:.1f} s, {one['chunk_mb']:.0f} MB" for one in (theirs, ours)]
            cells += [f"{theirs[clock] / ours[clock]:.2f}" for clock in ("wall_s", "cpu_s")]
            # Ours agrees with the first reference much better than any other package does.
            cells += [_share(found), _decibels(theirs if index else ours)]
            rows.append(f"| {' | '.join(cells)} |")
        rounds += [found["rounds"]] if others else []
    counts = " to ".join(str(count) for count in sorted({min(rounds), max(rounds)}))
    return [*rows, "", f"Medians of {counts} alternated rounds, two threads, {result['2']['cpu']}."]


def _share(found: dict[str, Any]) -> str:
    reached = found["flop"] / found["packages"]["stemsplit"]["wall_s"]
    return f"{100 * reached / found['gemm_flop_per_s']['wall']:.0f} %"


def headline(speed: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """A paragraph for the README: HT Demucs against demucs, RoFormers against two packages."""
    seconds, runs = list(speed["whole"]["htdemucs"].items())[-1]
    ours, theirs = runs["stemsplit"], runs["demucs"]
    gains, found = [], [result["2"]["families"][name]["packages"] for name in ROFORMERS]
    for package in ("pymss-core", "audio-separator"):
        ratios = sorted(f"{one[package]['wall_s'] / one['stemsplit']['wall_s']:.2f}" for one in found)
        gains.append(f"{' to '.join(dict.fromkeys(ratios))} times as fast as {package}")
    networks = [one["stemsplit"] for one in found]
    text = (
        f"On two cores of an {speed['machine']['cpu']}, HT Demucs separates {seconds} s of music in "
        f"{ours['wall_s']:.0f} s and {ours['peak_mb']:.0f} MB, demucs 4.1.0 in {theirs['wall_s']:.0f} s and "
        f"{theirs['peak_mb']:.0f} MB: {theirs['wall_s'] / ours['wall_s']:.2f} times as fast, and the stems "
        f"agree to {_decibels(ours)}. RoFormers are {' and '.join(gains)}, agree to "
        f"{min(one['agreement_db'] for one in networks):.0f} dB, and take at most "
        f"{max(one['chunk_mb'] for one in networks):.0f} MB beside their weights. "
        "[All measurements](docs/performance.md), losses included."
    )
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def shared(result: dict[str, Any]) -> list[str]:
    """Wall-clock seconds of both programs on an idle machine and beside two busy loops."""
    rows = ["| machine | demucs | stemsplit | × demucs | × demucs (CPU) |", "|---|---|---|---|---|"]
    for load, both in result["loads"].items():
        theirs, ours = both["demucs"], both["stemsplit"]
        what = {"idle": "idle", "busy": "beside two busy loops"}[load]
        rows.append(
            f"| {what} | {theirs['wall_s']:.1f} s, {theirs['peak_mb']:.0f} MB "
            f"| {ours['wall_s']:.1f} s, {ours['peak_mb']:.0f} MB | {theirs['wall_s'] / ours['wall_s']:.2f} "
            f"| {theirs['cpu_s'] / ours['cpu_s']:.2f} |"
        )
    what = (
        f"HT Demucs, {result['seconds']:.0f} s of audio, two cores of an {result['cpu']}, {result['rounds']}"
    )
    first = (
        f"The first progress comes {result['first_progress_s']:.1f} s after the start on the idle machine."
    )
    return [*rows, "", f"{what} rounds; the stems agree to {_decibels(result)}. {first}"]


def jobs(result: dict[str, Any]) -> list[str]:
    """Throughput of several tracks at once over that of one track on all cores: measured, then computed."""
    seconds, peaks = result["seconds"], result["peak_mb"]
    rows = ["| two cores, measured | s a chunk | throughput | peak memory |", "|---|---|---|---|"]
    for name, took in seconds.items():
        jobs, _, threads = name.partition(" × ")
        what = (
            f"{jobs} job{'s' * (jobs > '1')} of {threads} thread{'s' * (threads > '1')}" if threads else name
        )
        rows.append(f"| {what} | {took:.2f} | {seconds['1 × 2'] / took:.2f} | {peaks[name]:.0f} MB |")
    # Amdahl's law, by the gain of the second thread: 1/s(2) = f + (1 − f)/2
    serial = 2 * seconds["1 × 2"] / seconds["1 × 1"] - 1
    beside = seconds["1 × 1"] / (2 * seconds["2 × 1"])  # what a job loses to another on the next core
    chunk = peaks["2 × 1"] - peaks["1 × 1"]

    def gain(threads: float) -> float:
        return 1 / (serial + (1 - serial) / threads)

    counts = (1, 2, 4, 8, 16)
    rows += ["", f"| cores, computed | {' | '.join(f'`-j {count}`' for count in counts)} |", "|---" * 6 + "|"]
    for cores in (2, 4, 8, 16, 32, 64):
        one = gain(cores)
        cells = (
            f"{count * gain(cores / count) * (beside if count > 1 else 1) / one:.2f}"
            if count <= cores
            else ""
            for count in counts
        )
        rows.append(f"| {cores} | {' | '.join(cells)} |")
    extra = (f"{(count - 1) * chunk:.0f} MB" for count in counts)
    return [*rows, f"| more memory | {' | '.join(extra)} |"]


def gpu(result: dict[str, Any]) -> list[str]:
    """Speed, memory and agreement of every variant of every network; whole programs after them."""
    rows = ["| network | real time | batch | weights | peak memory | agreement |", "|---" * 6 + "|"]
    for family, case in result["networks"].items():
        for name, found in case["variants"].items():
            if "reason" in found:
                rows.append(f"| {family}, {name} | {found['reason']} |  |  |  |  |")
                continue
            speed = case["audio_s"] / min(found["s"], found.get("batch_s", found["s"]))
            peak = "" if found["peak_mb"] is None else f"{found['peak_mb']:.0f} MB"
            cells = f"{found.get('batch', 1)} | {found['weights_mb']:.1f} MB | {peak} | {_decibels(found)}"
            rows.append(f"| {family}, {name} | {speed:.1f} × | {cells} |")
    for name, found in result["whole"].items():
        what = found.get("reason") or f"{found['wall_s']:.1f} s, {_decibels(found)}"
        rows.append(f"| whole program, {name} | {what} |  |  |  |  |")
    return rows


def _decibels(run: dict[str, float]) -> str:
    return "same" if run["agreement_db"] > 300 else f"{run['agreement_db']:.0f} dB"


def write(text: list[str]) -> None:
    """Put the tables between the README's marks."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text("\n".join([before + BEGIN, "", *text, "", END + after]))
