"""The tables in README.md, from the JSON of a run."""

from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
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


def roformers(result: dict[str, Any]) -> list[str]:
    """CPU seconds and memory of a chunk, ours against the other packages'."""
    names = list(next(iter(result["models"].values()))["packages"])
    rows = [f"| network | audio | {' | '.join(names)} | × | agreement |", "|---" * (len(names) + 4) + "|"]
    for model, found in result["models"].items():
        packages = found["packages"]
        cells = [f"{one['cpu_s']:.1f} s, {one['chunk_mb']:.0f} MB" for one in packages.values()]
        ours = packages["stemsplit"]
        times = [f"{packages[name]['cpu_s'] / ours['cpu_s']:.2f}" for name in names if name != "stemsplit"]
        rows.append(
            f"| {model} | {found['seconds']:.0f} s | {' | '.join(cells)} | {', '.join(times)} "
            f"| {_decibels(ours)} |"
        )
    return [*rows, "", f"On one thread of an {result['cpu']}."]


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
