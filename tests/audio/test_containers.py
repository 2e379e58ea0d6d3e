import av
import pytest

from stemsplit.audio.containers import CONTAINERS


@pytest.mark.parametrize("name", CONTAINERS)
def test_rows_have_the_names_of_open_files(name: str) -> None:
    if name in av.formats_available:
        assert av.ContainerFormat(name, "r").name.partition(",")[0] == name


@pytest.mark.parametrize("name", ["hls", "dash", "concat", "image2", "lavfi", "sdp", "rtsp"])
def test_formats_that_open_further_files_are_not_listed(name: str) -> None:
    assert name not in CONTAINERS


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_stream_without_an_index_declares_estimates(name: str) -> None:
    row = CONTAINERS[name]
    assert not row.continuous or (row.length == "estimate" and not row.indexed and row.padding is None)
