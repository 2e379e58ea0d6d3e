"""Choose files of a folder by their names: which look like audio, and which are hidden."""

# Of every container that `audio.reader` opens, in lower case; content decides once a file is opened.
AUDIO_SUFFIXES = frozenset(
    ".3g2 .3gp .3gpp .8svx .aa3 .aac .ac3 .ac4 .adts .aif .aifc .aiff .alac .amr .ape .asf .at3 .au .avi"
    " .awb .bwf .caf .dff .dsf .dts .dtshd .eac3 .ec3 .f4a .f4v .flac .flv .iff .latm .loas .m1a .m2a .m2t"
    " .m2ts .m4a .m4b .m4r .m4v .mk3d .mka .mkv .mlp .mov .mp1 .mp2 .mp3 .mp4 .mpa .mpc .mpeg .mpg .mpga .mts"
    " .mxf .nut .oga .ogg .ogm .ogv .ogx .oma .omg .opus .qcp .qt .ra .rf64 .rm .rmvb .snd .sox .spx .tak"
    " .thd .truehd .ts .tta .vob .voc .w64 .wav .wave .webm .wma .wmv .wtv .wv .xwm .xwma".split()
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder called `name` is left out of listings without a word."""
    return name.startswith(".") or name == "__MACOSX"
