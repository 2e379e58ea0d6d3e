"""Handlers of the requests for songs, stems, mixes and models; `jobs_api` has those of jobs and uploads."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from urllib.parse import quote

import numpy as np
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stemsplit import __version__
from stemsplit.audio.decoding import Array
from stemsplit.formats import FORMATS
from stemsplit.settings import DEFAULT_MODEL, DEFAULT_QUALITY, DEFAULT_REQUEST, QUALITIES
from stemsplit.web import bodies, songs
from stemsplit.web.answers import ApiError, Json, SentFile, json_of, sendable, whole
from stemsplit.web.exports import zipped
from stemsplit.web.loudness import common_energy, difference
from stemsplit.web.service import Service
from stemsplit.web.spectrogram import MOST_COLUMNS, MOST_ROWS, spectrogram

MOST_FRAMES = 1 << 20  # of one request for samples; 24 s at 44.1 kHz
MOST_COMPARED = 32  # files whose loudness is measured together
LONGEST = 1 << 40  # samples
_LONGEST_RANGE = 100  # bytes of a Range header: one range, not a list


def service_of(request: Request) -> Service:
    """Return the server's parts."""
    found: Service = request.app.state.service
    return found


async def about(request: Request) -> Response:
    """Return what this server is and can do."""
    service = service_of(request)
    return Json(
        {
            "version": __version__,
            "output": str(service.library.output),
            "model": service.base.get("model", DEFAULT_MODEL),
            "qualities": list(QUALITIES),
            "quality": DEFAULT_QUALITY,
            "formats": [
                {"name": one.name, "extension": one.extension, "bit_depths": list(one.bit_depths)}
                for one in FORMATS.values()
                if not one.together
            ],
            "format": DEFAULT_REQUEST.output.format,
            "bit_depth": DEFAULT_REQUEST.output.bit_depth,
        }
    )


async def list_songs(request: Request) -> Response:
    """Return all songs in short."""
    library = service_of(request).library
    found = await to_thread.run_sync(library.songs)
    return Json({"songs": [songs.in_short(song) for song in found], "complete": library.complete})


async def show_song(request: Request) -> Response:
    """Return one song in full."""
    service = service_of(request)
    song = await to_thread.run_sync(service.library.song, request.path_params["id"])
    return Json(await service.decode(lambda: songs.in_full(song, service.library, service.slices)))


async def _file(request: Request) -> Path:
    return await to_thread.run_sync(service_of(request).library.file, request.path_params["id"])


async def file(request: Request) -> Response:
    """Return the bytes of a stem or original, or a range of them."""
    path = await _file(request)
    return _sent(request, path, path.name)


def _sent(request: Request, path: Path, name: str) -> Response:
    if len(request.headers.get("range", "")) > _LONGEST_RANGE or "," in request.headers.get("range", ""):
        raise ApiError(416, "only one range can be asked for at a time")
    return SentFile(path, media_type="application/octet-stream", filename=sendable(name))


async def pcm(request: Request) -> Response:
    """Return samples of a file as interleaved little-endian float32."""
    service, path = service_of(request), await _file(request)
    start = whole(request.query_params, "start", 0, 0, LONGEST)
    frames = whole(request.query_params, "frames", None, 1, MOST_FRAMES)
    info = await service.decode(lambda: service.slices.info(path))
    blocks = service.slices.blocks(path, start, frames)
    # the first piece is decoded before the answer begins, so that an error gets its status
    first = await service.decode(lambda: list(_interleaved(islice(blocks, 1))))
    headers = {"x-sample-rate": str(info.sample_rate), "x-channels": str(min(2, info.channels))}

    data = chain(first, _interleaved(blocks))
    return StreamingResponse(data, media_type="application/octet-stream", headers=headers)


def _interleaved(blocks: Iterator[Array]) -> Iterator[bytes]:
    """Yield the bytes of blocks [C, n], sample by sample."""
    for block in blocks:
        yield np.ascontiguousarray(block.T, "<f4").tobytes()  # [n, C]


async def peaks(request: Request) -> Response:
    """Return the waveform of a range of a file."""
    service, path = service_of(request), await _file(request)
    start, frames = _range(request)
    width = whole(request.query_params, "width", 1000, 1, 4096)
    view = await service.decode(lambda: service.waveforms.view(path, start, frames, width))
    return Json(
        {
            "lows": view.lows.tolist(),
            "highs": view.highs.tolist(),
            "done": view.done,
            "complete": view.complete,
            "peak": view.peak,
            "error": view.error,
        }
    )


def _range(request: Request) -> tuple[int, int]:
    start = whole(request.query_params, "start", 0, 0, LONGEST)
    return start, whole(request.query_params, "frames", None, 1, LONGEST)


async def show_spectrogram(request: Request) -> Response:
    """Return the spectrogram of a range of a file as bytes, row by row."""
    service, path = service_of(request), await _file(request)
    start, frames = _range(request)
    width = whole(request.query_params, "width", 800, 1, MOST_COLUMNS)
    height = whole(request.query_params, "height", 96, 8, MOST_ROWS)
    levels = await service.decode(lambda: spectrogram(service.slices, path, start, frames, width, height))
    return Response(levels.tobytes(), media_type="application/octet-stream")


async def loudness(request: Request) -> Response:
    """Return the K-weighted energy that some files have in common."""
    service = service_of(request)
    ids = request.query_params.get("ids", "").split(",")
    if not 0 < len(ids) <= MOST_COMPARED:
        raise ApiError(400, f"ids must be 1 to {MOST_COMPARED} files")
    paths = [await to_thread.run_sync(service.library.file, id) for id in ids]
    found = await service.work(request, lambda stopped: common_energy(paths, stopped))
    return Json({"ids": ids, **found})


async def compare(request: Request) -> Response:
    """Return the levels of two files and of their difference."""
    service = service_of(request)
    ids = [request.query_params.get(key, "") for key in ("a", "b")]
    one, other = [await to_thread.run_sync(service.library.file, id) for id in ids]
    return Json(await service.work(request, lambda stopped: difference(one, other, stopped)))


async def zip_result(request: Request) -> Response:
    """Return all stems of a result as a ZIP file."""
    service = service_of(request)
    result = await to_thread.run_sync(service.library.result, request.path_params["id"])
    files = [(sendable(stem.path.name), service.library.inside(stem.path)) for stem in result.stems]
    headers = {"content-disposition": _attachment(f"{result.label}.zip")}
    return StreamingResponse(zipped(files), media_type="application/zip", headers=headers)


def _attachment(name: str) -> str:
    """Return the header that has a browser save a file under a name (RFC 6266)."""
    return f"attachment; filename*=utf-8''{quote(sendable(name), safe='')}"


async def export(request: Request) -> Response:
    """Render a mix, and return where it can be downloaded."""
    service = service_of(request)
    body = await json_of(request)
    lanes, settings, name = await to_thread.run_sync(bodies.mix, body, service.library)
    made = await service.work(request, lambda stopped: service.exports.make(lanes, settings, name, stopped))
    return Json(made, 201)


async def download_export(request: Request) -> Response:
    """Return the file of a mix."""
    path = service_of(request).exports.get(request.path_params["id"])
    return _sent(request, path, path.name)


async def list_models(request: Request) -> Response:
    """Return all models."""
    return Json({"models": await to_thread.run_sync(service_of(request).models.all)})
