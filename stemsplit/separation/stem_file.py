"""The streams of a stem file: the mixture first, then stems that sum to it.

A network's estimates needn't sum to the mixture, but a DJ program that plays all stems must play the song. So
`other` is what the other stems leave of the mixture.
"""

from collections.abc import Sequence
from dataclasses import replace

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.formats import Format
from stemsplit.separation.outputs import MIX, Output, Sum, find_sum, plan_outputs
from stemsplit.settings import StemSettings

MIXTURE = "mixture"
_REST = "other"  # the stem that takes what the others leave


def plan_streams(
    stems: Sequence[str], settings: StemSettings, divided: Sequence[str], form: Format
) -> tuple[Output, ...]:
    """Return the outputs that a file of this format holds, in the order of its streams.

    Args:
        stems: the stems that the model or recipe gives.
        settings: the outputs that are asked for.
        divided: stems that are given in parts.
        form: a format whose files hold all outputs of a track.

    Raises:
        UnknownNameError: there is no such stem.
        SettingsError: the format holds certain stems, and others are asked for or given.
    """
    chosen = settings != StemSettings()
    if form.slots:
        if chosen:
            rule = f"holds {', '.join(form.slots)}; other outputs can't be chosen"
            raise SettingsError(f"--format {form.name}: {rule}", setting="--format", hint="-f mka takes any")
        outputs = _slots(stems, divided, form)
    else:
        outputs = plan_outputs(stems, settings, divided)
    if not chosen:
        outputs = tuple(
            replace(each, sum=_remainder(outputs)) if each.name == _REST else each for each in outputs
        )
    return (Output(MIXTURE, Sum((MIX,))), *outputs)


def _slots(stems: Sequence[str], divided: Sequence[str], form: Format) -> tuple[Output, ...]:
    """Return an output for every slot; `other` is set by the caller."""
    try:
        return tuple(
            Output(name, Sum(()) if name == _REST else find_sum(name, [*stems, *divided]))
            for name in form.slots
        )
    except UnknownNameError:
        needed = [name for name in form.slots if name != _REST]
        raise SettingsError(
            f"--format {form.name}: needs {', '.join(needed)}, and the model gives {', '.join(stems)}",
            setting="--format",
            hint="-f mka holds any stems",
        ) from None


def _remainder(outputs: Sequence[Output]) -> Sum:
    """Return the mix less all outputs but `other`."""
    rest = Sum((MIX,))
    for each in outputs:
        if each.name != _REST:
            rest = rest - each.sum
    return rest
