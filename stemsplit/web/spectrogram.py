"""Spectrograms of a range of a file, in the size in which they are shown."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio.decoding import Array
from stemsplit.web.slices import Slices

WINDOW = 2048  # samples
LOWEST_HZ = 30.0
FLOOR_DB, TOP_DB = -96.0, 0.0  # of a sine at full scale
MOST_COLUMNS, MOST_ROWS = 2048, 256

Levels = NDArray[np.uint8]


def spectrogram(slices: Slices, path: Path, start: int, frames: int, width: int, height: int) -> Levels:
    """Return the levels of a range, [height, width], the highest frequency first.

    Each column is the spectrum in the middle of its part of the range (Hann window, mean of the channels).
    Rows lie evenly on a logarithmic scale from 30 Hz to half the sample rate; 0 is -96 dB or less and 255 the
    level of a sine at full scale.

    Raises:
        InputError: the file can't be read.
    """
    rate = slices.info(path).sample_rate
    rows = _rows(rate, height)
    centres = start + ((np.arange(width) + 0.5) * frames / width).astype(np.int64)  # [width]
    begin = max(0, int(centres[0]) - WINDOW // 2)
    found = np.zeros((height, width), np.uint8)
    held, position, column = np.zeros((1, 0), np.float32), begin, 0
    length = int(centres[-1]) + WINDOW // 2 - begin
    for block in slices.blocks(path, begin, length):
        held = np.concatenate([held, block.mean(axis=0, keepdims=True)], axis=1)  # [1, n]
        while column < width and centres[column] + WINDOW // 2 <= position + held.shape[1]:
            found[:, column] = _column(held[0], int(centres[column]) - WINDOW // 2 - position, rows)
            column += 1
        wanted = int(centres[min(column, width - 1)]) - WINDOW // 2
        gone = min(max(0, wanted - position), held.shape[1])
        held, position = held[:, gone:], position + gone
    for rest in range(column, width):  # at the end of the file
        found[:, rest] = _column(held[0], int(centres[rest]) - WINDOW // 2 - position, rows)
    return found


def _column(samples: Array, offset: int, rows: NDArray[np.int64]) -> Levels:
    """Return the levels of the window that begins at `offset`, the highest row first."""
    window = np.zeros(WINDOW, np.float32)
    first, last = max(0, offset), min(len(samples), offset + WINDOW)
    if last > first:
        window[first - offset : last - offset] = samples[first:last]
    magnitudes = np.abs(np.fft.rfft(window * np.hanning(WINDOW))) / (WINDOW / 4)  # [F]; 1 is full scale
    bands = np.maximum.reduceat(np.append(magnitudes, 0), rows.ravel())[::2]  # [height]
    levels = 20 * np.log10(np.maximum(bands, 1e-9))
    scaled = np.clip((levels - FLOOR_DB) / (TOP_DB - FLOOR_DB) * 255, 0, 255)
    return scaled.astype(np.uint8)[::-1]


def _rows(rate: int, height: int) -> NDArray[np.int64]:
    """Return the first bin of every row and the one after its last, from the lowest frequency up."""
    edges = np.geomspace(LOWEST_HZ, rate / 2, height + 1) * WINDOW / rate
    first = np.floor(edges[:-1]).astype(np.int64)
    after = np.maximum(first + 1, np.floor(edges[1:]).astype(np.int64))
    return np.stack([first, after], axis=1)  # [height, 2]
