"""Arguments of the VR networks, by the rules of Ultimate Vocal Remover (UVR)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.multiband import MultiBand, multiband
from stemsplit.models.blocks.windows import Windows
from stemsplit.stems import canonical

# Primary stems of which `aggressiveness` takes more rather than less, as in UVR
SOUNDS = frozenset(
    "vocals other bass drums guitar piano synthesizer strings woodwinds brass wind_inst".split()
)


def opposite(stem: str) -> str:
    """Return the name of everything but a stem, by the rule of UVR."""
    pairs = {"vocals": "Instrumental", "instrumental": "Vocals"}
    rest = stem[3:] if stem.lower().startswith("no ") else f"No {stem}"
    return pairs.get(stem.lower(), rest)


@dataclass(frozen=True, kw_only=True)
class VRArguments:
    """Arguments of both versions; the fields after the stems, but the last, are those that a user may change.

    Attributes:
        vr_model_param: the bands, by the name of a parameter file of UVR, or in such a file's layout.
        primary_stem: the stem that is masked.
        secondary_stem: the rest; None for a name made from the primary stem's.
        window_size: frames that the network sees at once: 320, 512 or 1024 in UVR; fewer are slower.
        aggressiveness: from -50 to 100; how strongly low values of the mask are lowered further, 0 for not
            at all. If the primary stem is one of `SOUNDS`, a higher value lowers them less.
        tta: average two masks, the windows of the second shifted by half.
        high_end_process: fill the stems above the bands by a mirror image of the bins below.
        post_process: give long stretches in which the mask is nowhere low to the primary stem alone.
        post_process_threshold: the lowest value of the mask in such a stretch.
        windows: in a chunk. One more is computed for every chunk; the result is the same.
    """

    vr_model_param: str | Mapping[str, Any] = "4band_v3"
    primary_stem: str = "Vocals"
    secondary_stem: str | None = None
    window_size: int = 512
    aggressiveness: int = 5
    tta: bool = False
    high_end_process: bool = False
    post_process: bool = False
    post_process_threshold: float = 0.2
    windows: int = 8

    OFFSET: ClassVar[int]
    MODERN: ClassVar[bool]

    def __post_init__(self) -> None:
        if not -50 <= self.aggressiveness <= 100:
            raise StemsplitError(f"aggressiveness {self.aggressiveness}: must be from -50 to 100")
        if not 0 <= self.post_process_threshold <= 1:
            raise StemsplitError(
                f"post_process_threshold {self.post_process_threshold:g}: must be from 0 to 1"
            )
        multiple = 2**self.scales
        if self.window_size % multiple or self.grid.roi < 2:
            raise StemsplitError(
                f"window_size {self.window_size}: must be a multiple of {multiple} above {2 * self.OFFSET}"
            )
        if self.bands.bins % (2 * multiple):
            raise StemsplitError(f"{self.bands.bins} bins: must be a multiple of {2 * multiple}")

    @property
    def scales(self) -> int:
        """Number of times that the network halves bins and frames."""
        return 4

    @property
    def grid(self) -> Windows:
        """The windows that the network sees."""
        return Windows(self.window_size, self.OFFSET)

    @cached_property
    def bands(self) -> MultiBand:
        """The bands that `vr_model_param` describes."""
        return multiband(self.vr_model_param, modern=self.MODERN)

    @property
    def stems(self) -> tuple[str, str]:
        """The primary and the secondary stem."""
        return self.primary_stem, self.secondary_stem or opposite(self.primary_stem)

    @property
    def exponents(self) -> tuple[float, float]:
        """Powers to which `aggressiveness` raises the mask, in the lowest band and above."""
        if not self.aggressiveness:
            return 1.0, 1.0
        strength = self.aggressiveness / 50
        if canonical(self.primary_stem) in SOUNDS:
            strength = 1 - strength
        return 1 + strength / 3, 1 + strength

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of a configuration whose section `vr` is like an entry of UVR's table.

        Args:
            config: `vr` has vr_model_param, primary_stem and perhaps secondary_stem. The sizes nout and
                nout_lstm are those of the tensors; is_karaoke, is_bv_model and is_bv_model_rebalanced only
                change how UVR names and combines the stems of several models.
        """
        entry = config["vr"]
        return cls(
            vr_model_param=entry["vr_model_param"],
            primary_stem=entry["primary_stem"],
            secondary_stem=entry.get("secondary_stem"),
        )
