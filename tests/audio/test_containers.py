import av
import pytest

from stemsplit.audio.containers import CONTAINERS


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_row_has_the_name_that_an_open_file_shows(name: str) -> None:
    if name in av.formats_available:
        assert av.ContainerFormat(name, "r").name.partition(",")[0] == name


@pytest.mark.parametrize("name", ["hls", "dash", "concat", "image2", "lavfi", "sdp", "rtsp"])
def test_nothing_that_opens_further_files_is_listed(name: str) -> None:
    assert name not in CONTAINERS


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_stream_without_an_index_declares_estimates(name: str) -> None:
    row = CONTAINERS[name]
    assert not row.continuous or (row.length == "estimate" and not row.indexed and row.padding is None)
