"""Where a family's chunk spends its time, by PyTorch's operators.

    python -m tests.benchmarks.operators scnet
    python -m tests.benchmarks.operators vr --segment 6

The network is prepared for a CPU and has random weights. An operator's time is its own, without those that it
calls; times of several threads aren't added up.
"""

import click
import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks import families


@click.command(help=__doc__)
@click.argument("family", type=click.Choice(tuple(families.CASES)))
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--segment", type=float, help="Seconds of a chunk, instead of the checkpoint's own.")
@click.option("--least", type=float, default=1.0, show_default=True, help="Least share in per cent.")
@click.option("--quick", is_flag=True, help="A tiny network.")
def main(family: str, threads: int, segment: float | None, least: float, quick: bool) -> None:
    """Compute a chunk once, then again under the profiler, and print."""
    torch.set_num_threads(threads)
    network = families.randomised(family, families.released(family, quick)).prepare()
    if segment is not None:
        network.use_segment(segment)
    samples = network.segment_samples + 2 * network.context_samples
    mix = 0.1 * torch.randn(1, network.channels, samples)
    with torch.inference_mode():
        network(mix)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            network(mix)
    operators = sorted(found.key_averages(), key=lambda one: -one.self_cpu_time_total)
    total = sum(one.self_cpu_time_total for one in operators)
    click.echo(
        f"{family}: {total / 1e6:.2f} s, {network.segment_samples / network.sample_rate:.1f} s of audio"
    )
    for one in operators:
        share = 100 * one.self_cpu_time_total / total
        if share >= least:
            click.echo(f"{share:5.1f} %  {one.key}, {one.count} ×")


if __name__ == "__main__":
    main()
