"""`stemsplit blend`: blend finished files into one."""

from pathlib import Path
from typing import Any

import click

from stemsplit.blend_names import DEFAULT_BLEND
from stemsplit.cli import progress
from stemsplit.cli.failures import usage_error
from stemsplit.cli.options import setting
from stemsplit.fields import collect
from stemsplit.settings import OutputSettings


@click.command(
    params=[
        click.Argument(["files"], nargs=-1, metavar="FILE..."),
        click.Option(
            ["-o", "--output"], metavar="FILE", help="File to write; its suffix chooses the format."
        ),
        *map(setting, ("blend", "weights", "bit_depth", "bitrate")),
        click.Option(["-y", "overwrite"], is_flag=True, help="Overwrite an existing file."),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def blend(files: tuple[str, ...], **options: Any) -> None:
    """Blend several estimates of one stem, or any other audio files, into one file.

    Means and medians reduce the errors of single models; min_* keeps what all of them found, and max_* what
    any of them found. *_wave works on samples, *_fft and uvr_* on the bins of a spectrogram.

    \b
    stemsplit blend a/vocals.wav b/vocals.wav -o vocals.wav
    stemsplit blend a.wav b.wav c.wav --blend median_fft -o best.flac
    stemsplit blend a.wav b.wav --weights 2,1 -o mix.wav
    """
    from stemsplit.separation.blending import blend_files, format_of

    if options["output"] is None:
        raise usage_error("-o is missing", hint="-o FILE names the file to write")
    output = collect({**options, "format": format_of(options["output"])}, OutputSettings)
    with progress.display(None) as callback:
        blend_files(
            files,
            Path(options["output"]),
            blend=options["blend"] or DEFAULT_BLEND,
            weights=options["weights"],
            output=output,
            overwrite=options["overwrite"],
            callback=callback,
        )
