"""List the files of a folder, without hidden ones, and know the suffixes of audio files."""

import os
from pathlib import Path

# Folders of macOS' archives, Windows' volumes and network drives; all other hidden names begin with a dot
_SYSTEM = frozenset({"__macosx", "$recycle.bin", "system volume information", "@eadir"})

# Suffixes of all containers that the reader knows, for folders; a file that is given itself may have any
AUDIO_SUFFIXES = frozenset(
    ".3g2 .3gp .3gpp .8svx .aa3 .aac .ac3 .ac4 .adts .aif .aifc .aiff .alac .amr .ape .apl .asf .at3 .au"
    " .avi .awb .bwf .caf .dff .dsf .dts .dtshd .eac3 .ec3 .f4a .f4v .flac .flv .iff .latm .loas .m1a .m2a"
    " .m2t .m2ts .m4a .m4b .m4r .m4v .mk3d .mka .mkv .mlp .mov .mp1 .mp2 .mp3 .mp4 .mpa .mpc .mpe .mpeg"
    " .mpg .mpga .mts .mxf .nut .oga .ogg .ogm .ogv .ogx .oma .omg .opus .qcp .qt .ra .rf64 .rm .rmvb .snd"
    " .sox .spx .tak .thd .truehd .ts .tta .vob .voc .w64 .wav .wave .webm .wma .wmv .wtv .wv .xwm"
    " .xwma".split()
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden: `._song.wav`, `.Trashes`, `__MACOSX`.

    >>> is_hidden("._song.wav"), is_hidden("__MACOSX"), is_hidden("__song.wav")
    (True, True, False)
    """
    return name.startswith(".") or name.casefold() in _SYSTEM


def visible_files(root: Path) -> list[Path]:
    """Return all files below a folder that aren't hidden, sorted. Links to folders are not followed.

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
