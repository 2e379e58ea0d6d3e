"""What counts in a folder that is searched: which names are hidden, and which suffixes are audio's."""

import os
from pathlib import Path

# Left by macOS in archives, by Windows on every volume and by network drives; all else hidden has a dot.
_SYSTEM = frozenset({"__macosx", "$recycle.bin", "system volume information", "@eadir"})

# Of every container that the reader knows. A file that is named by itself is tried whatever it is called.
AUDIO_SUFFIXES = frozenset(
    # audio
    ".8svx .aa3 .aac .ac3 .ac4 .adts .aif .aifc .aiff .alac .amr .ape .apl .au .bwf .caf .dff .dsf .dts"
    " .dtshd .eac3 .ec3 .flac .latm .loas .m2a .m4a .m4b .m4r .mka .mlp .mp1 .mp2 .mp3 .mpa .mpc .mpga .oga"
    " .ogg .oma .omg .opus .qcp .ra .rf64 .snd .sox .spx .tak .thd .tta .voc .w64 .wav .wave .wma .wv .xwma"
    # video
    " .3g2 .3gp .asf .avi .f4v .flv .m2t .m2ts .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv"
    " .ogx .rm .rmvb .ts .vob .webm .wmv .wtv".split()
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is kept from view: `._song.wav`, `.Trashes`, `__MACOSX`.

    >>> is_hidden("._song.wav"), is_hidden("__MACOSX"), is_hidden("__song.wav")
    (True, True, False)
    """
    return name.startswith(".") or name.casefold() in _SYSTEM


def visible_files(root: Path) -> list[Path]:
    """Return every file below a folder that isn't hidden, sorted. Links to folders are not followed.

    Raises:
        OSError: a folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for folder, below, files in os.walk(root, onerror=refuse):
        below[:] = [name for name in below if not is_hidden(name)]
        found += [Path(folder, name) for name in files if not is_hidden(name)]
    return sorted(found)
