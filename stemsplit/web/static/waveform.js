/** The picture of a stem: its waveform, or its spectrogram on demand. */

import { bytes, get } from './api.js';

const POLL_MS = 400; // while the server still reads the file
const WAIT_MS = 70; // after a change of the view, until it is drawn anew
const FULL_SCALE = 32767;
const ROWS = 96; // of a spectrogram

/** Return a colour of the style sheet. @param {Element} node @param {string} name */
export const colour = (node, name) => getComputedStyle(node).getPropertyValue(name).trim();

/** A canvas that shows a range of a file. */
export class Waveform {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {string} file its id
   * @param {import('./view.js').View} view
   * @param {string} ink CSS variable of its colour
   * @param {(text: string) => void} told called with a remark, or with an empty text
   */
  constructor(canvas, file, view, ink, told) {
    Object.assign(this, { canvas, file, view, ink, told });
    this.spectral = false;
    this.known = null; // what the server told last
    this.loading = new AbortController();
    this.changed = () => this.#later();
    view.addEventListener('change', this.changed);
    this.watcher = new ResizeObserver(this.changed);
    this.watcher.observe(canvas);
  }

  /** Show the spectrogram, or the waveform again. @param {boolean} on */
  showSpectrum(on) {
    this.spectral = on;
    this.known = null;
    this.#load();
  }

  /** Draw again, in other colours. */
  redraw() {
    this.#draw();
  }

  /** Stop loading. */
  close() {
    clearTimeout(this.timer);
    this.loading.abort();
    this.watcher.disconnect();
    this.view.removeEventListener('change', this.changed);
  }

  #later() {
    this.#draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#load(), WAIT_MS);
  }

  async #load() {
    clearTimeout(this.timer);
    this.loading.abort();
    this.loading = new AbortController();
    const { start, frames } = this.view;
    const width = Math.min(2000, Math.max(50, Math.round(this.canvas.clientWidth)));
    const query = `start=${start}&frames=${frames}&width=${width}`;
    try {
      if (this.spectral) await this.#loadSpectrum(query, start, frames, width);
      else await this.#loadPeaks(query, start, frames, width);
    } catch (error) {
      if (error.name !== 'AbortError') this.told(error.message);
      return;
    }
    this.#draw();
  }

  async #loadPeaks(query, start, frames, width) {
    const found = await get(`api/files/${this.file}/peaks?${query}`, this.loading.signal);
    this.known = { start, frames, width, ...found };
    const share = Math.min(1, found.done / this.view.total);
    this.told(found.error ?? (found.complete ? '' : `reading ${Math.round(100 * share)} %`));
    this.complete = found.complete;
    if (!found.complete) this.timer = setTimeout(() => this.#load(), POLL_MS);
  }

  async #loadSpectrum(query, start, frames, width) {
    this.told('computing the spectrogram');
    const path = `api/files/${this.file}/spectrogram?${query}&height=${ROWS}`;
    const levels = new Uint8Array(await bytes(path, this.loading.signal));
    this.known = { start, frames, width, levels };
    this.told('');
  }

  #draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext('2d');
    pen.clearRect(0, 0, width, height);
    if (!this.known) return;
    // where what is known lies in the view, which may have moved since
    const left = ((this.known.start - this.view.start) / this.view.frames) * width;
    const step = ((this.known.frames / this.view.frames) * width) / this.known.width;
    if (this.known.levels) this.#drawSpectrum(pen, left, step, height);
    else this.#drawPeaks(pen, left, step, height, ratio);
  }

  #drawPeaks(pen, left, step, height, ratio) {
    const { lows, highs } = this.known;
    const middle = height / 2;
    const unit = (middle - 1) / FULL_SCALE;
    pen.fillStyle = colour(this.canvas, '--line');
    pen.fillRect(0, Math.round(middle), this.canvas.width, ratio);
    pen.fillStyle = colour(this.canvas, this.ink);
    for (let i = 0; i < lows.length; i++) {
      const top = middle - highs[i] * unit;
      const bottom = middle - lows[i] * unit;
      pen.fillRect(left + i * step, top, Math.max(step, 1), Math.max(ratio, bottom - top));
    }
  }

  #drawSpectrum(pen, left, step, height) {
    const { levels, width } = this.known;
    const image = new ImageData(width, ROWS);
    const [red, green, blue] = rgb(colour(this.canvas, this.ink));
    for (let i = 0; i < levels.length; i++) {
      image.data.set([red, green, blue, Math.min(255, Math.round((levels[i] / 255) ** 1.6 * 400))], 4 * i);
    }
    const picture = new OffscreenCanvas(width, ROWS);
    picture.getContext('2d').putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.drawImage(picture, left, 0, step * width, height);
  }
}

/** Return red, green and blue of `#rrggbb`. @param {string} text */
function rgb(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
