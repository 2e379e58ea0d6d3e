/** The rows of the mixer, one per stem. */

import { level, SILENT_DB } from './channel.js';
import { colourOf, decibels, el, stemName } from './dom.js';
import { drawMeter } from './meter.js';
import { Waveform } from './waveform.js';

/** A row with its controls, for a stem of one result or of the two that are compared; it emits `mix` on changes. */
export class Lane extends EventTarget {
  /**
   * @param {import('./channel.js').Channel[]} channels the stem in each result
   * @param {import('./view.js').View} view
   * @param {string} label
   */
  constructor(channels, view, label) {
    super();
    this.channels = channels;
    this.channel = channels[0];
    this.label = label;
    const stem = this.channel.file.name;
    const ink = colourOf(stem);
    this.waveforms = [];
    const waves = channels.map((channel) => this.#wave(channel, view, ink));
    const head = [this.#title(), ...this.#buttons(), this.#volume(), this.#pan(), this.#meter()];
    this.row = el(
      'div',
      { class: 'lane', role: 'group', 'aria-label': label, 'data-stem': stem },
      el('div', { class: 'lane-head' }, ...head),
      el('div', { class: 'lane-waves' }, ...waves),
    );
    this.row.style.setProperty('--ink', `var(${ink})`);
    this.show();
  }

  /** Show the channel's state. */
  show() {
    const { mute, solo, db, pan, audible } = this.channel;
    this.mute.setAttribute('aria-pressed', String(mute));
    this.solo.setAttribute('aria-pressed', String(solo));
    this.row.classList.toggle('silent', !audible);
    this.volume.value = String(Math.max(SILENT_DB, db));
    this.volume.setAttribute('aria-valuetext', db <= SILENT_DB ? 'silent' : decibels(db));
    this.reading.textContent = db <= SILENT_DB ? '−∞' : decibels(db).replace(' dB', '');
    this.pan.value = String(pan);
    this.pan.setAttribute('aria-valuetext', panInWords(pan));
    this.panReading.textContent = panInWords(pan, true);
  }

  /** Show how loud it is. @param {string} heard what is heard, a key of LISTENS */
  showLevel(heard) {
    const sounding = this.channels.filter((channel) => heard === channel.side || heard === 'difference');
    drawMeter(this.bars, Math.max(0, ...sounding.map((channel) => level(channel.meter))));
    this.row.classList.toggle('original', heard === 'original');
  }

  /** Change the stem in all results. @param {object} values */
  set(values) {
    this.channels.forEach((channel) => Object.assign(channel, values));
    this.dispatchEvent(new Event('mix'));
  }

  /** Draw again, in other colours. */
  redraw() {
    this.waveforms.forEach((waveform) => waveform.redraw());
  }

  /** Remove the row. */
  close() {
    this.waveforms.forEach((waveform) => waveform.close());
    this.row.remove();
  }

  #wave(channel, view, ink) {
    const canvas = el('canvas', { class: 'wave', 'aria-hidden': 'true' });
    const note = el('p', { class: 'lane-note note' });
    this.waveforms.push(
      new Waveform(canvas, channel.file.id, view, ink, (text) => (note.textContent = text)),
    );
    const side =
      this.channels.length > 1 ? el('span', { class: 'side', text: channel.side.toUpperCase() }) : null;
    return el('div', { class: 'lane-wave', 'data-side': channel.side }, canvas, side, note);
  }

  #title() {
    return el(
      'h3',
      { class: 'lane-name', title: this.channel.file.file ?? '' },
      el('i', { class: 'dot', 'aria-hidden': 'true' }),
      this.label,
    );
  }

  #buttons() {
    const button = (text, title, handler) =>
      el('button', {
        class: 'key',
        'aria-pressed': 'false',
        'aria-label': `${title} ${this.label}`,
        title,
        text,
        onclick: handler,
      });
    this.mute = button('M', 'Mute', () => this.set({ mute: !this.channel.mute }));
    this.solo = button('S', 'Solo', () => this.set({ solo: !this.channel.solo }));
    this.spectrum = button('≋', 'Spectrogram of', () => {
      const on = this.spectrum.getAttribute('aria-pressed') !== 'true';
      this.spectrum.setAttribute('aria-pressed', String(on));
      this.waveforms.forEach((waveform) => waveform.showSpectrum(on));
    });
    return [el('div', { class: 'keys' }, this.mute, this.solo, this.spectrum)];
  }

  #volume() {
    this.reading = el('span', { class: 'reading' });
    this.volume = el('input', {
      type: 'range',
      min: SILENT_DB,
      max: 12,
      step: 0.5,
      'aria-label': `Volume of ${this.label}`,
      title: 'Volume; double-click: 0 dB',
      oninput: () => this.set({ db: Number(this.volume.value) }),
      ondblclick: () => this.set({ db: 0 }),
    });
    return el(
      'div',
      { class: 'control' },
      el('span', { class: 'control-name', text: 'Vol', 'aria-hidden': 'true' }),
      this.volume,
      this.reading,
    );
  }

  #pan() {
    this.panReading = el('span', { class: 'reading' });
    this.pan = el('input', {
      type: 'range',
      min: -1,
      max: 1,
      step: 0.05,
      'aria-label': `Pan of ${this.label}`,
      title: 'Pan; double-click: centre',
      oninput: () => this.set({ pan: Number(this.pan.value) }),
      ondblclick: () => this.set({ pan: 0 }),
    });
    return el(
      'div',
      { class: 'control' },
      el('span', { class: 'control-name', text: 'Pan', 'aria-hidden': 'true' }),
      this.pan,
      this.panReading,
    );
  }

  #meter() {
    this.bars = el('canvas', { class: 'meter', width: 120, height: 6, 'aria-hidden': 'true' });
    return this.bars;
  }
}

/** Return a pan in words. @param {number} pan @param {boolean} [short] */
function panInWords(pan, short = false) {
  if (Math.abs(pan) < 0.01) return short ? 'C' : 'centre';
  const amount = Math.round(Math.abs(pan) * 100);
  return short ? `${pan < 0 ? 'L' : 'R'}${amount}` : `${amount} % ${pan < 0 ? 'left' : 'right'}`;
}

/** Return a row for a stem that can't be played. @param {{name: string, error: string}} stem */
export function brokenRow(stem) {
  const name = el(
    'h3',
    { class: 'lane-name' },
    el('i', { class: 'dot', 'aria-hidden': 'true' }),
    stemName(stem.name),
  );
  const note = el('p', { class: 'lane-note note', text: `Not played: ${stem.error}` });
  return el(
    'div',
    { class: 'lane broken', role: 'group', 'aria-label': stemName(stem.name) },
    el('div', { class: 'lane-head' }, name),
    el('div', { class: 'lane-waves' }, el('div', { class: 'lane-wave' }, note)),
  );
}
