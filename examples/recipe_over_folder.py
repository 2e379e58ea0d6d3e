"""Run a recipe of several models over a folder: python recipe_over_folder.py FOLDER OUTPUT.

The vocals of two models are averaged, and a model separates them further. Better models need the same steps:
`models=("bs_roformer", "mel_band_roformer")`, for example.
"""

import sys

from stemsplit import Recipe, Request, Step, separate_files
from stemsplit.settings import BatchSettings, OutputSettings

RECIPE = Recipe(
    steps=(
        Step(models=("tiny", "classic"), blend="avg_fft", weights=(2, 1), name="first"),
        Step(models=("classic",), input="first.vocals", name="voices"),
    ),
    outputs={"band": "mix - first.vocals", "voices": "first.vocals", "low voices": "voices.bass"},
)


def main(folder: str, output: str) -> int:
    """Separate every song below a folder into FLAC files; return the command's exit code."""
    report = separate_files(
        folder,
        Request(output=OutputSettings(format="flac"), batch=BatchSettings(output=output)),
        model=RECIPE,
    )
    for track in report.tracks:
        print(track.status, track.input, *track.outputs.values(), track.error or "")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
