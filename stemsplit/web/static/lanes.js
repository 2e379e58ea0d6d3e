/** The rows of the mixer, one per stem. */

import { level, SILENT_DB } from './channel.js';
import { colourOf, decibels, el, stemName } from './dom.js';
import { drawMeter } from './meter.js';
import { Waveform } from './waveform.js';

/** A row with its controls; it emits `mix` when it changes what is heard. */
export class Lane extends EventTarget {
  /**
   * @param {import('./channel.js').Channel} channel
   * @param {import('./view.js').View} view
   * @param {string} label
   */
  constructor(channel, view, label) {
    super();
    this.channel = channel;
    this.label = label;
    const ink = colourOf(channel.file.name);
    this.canvas = el('canvas', { class: 'wave', 'aria-hidden': 'true' });
    this.note = el('p', { class: 'lane-note note' });
    this.row = el(
      'div',
      { class: 'lane', role: 'group', 'aria-label': label, 'data-stem': channel.file.name, 'data-side': channel.side },
      el('div', { class: 'lane-head' }, this.#title(ink), ...this.#buttons(), this.#volume(), this.#pan(), this.#meter()),
      el('div', { class: 'lane-wave' }, this.canvas, this.note),
    );
    this.row.style.setProperty('--ink', `var(${ink})`);
    this.waveform = new Waveform(this.canvas, channel.file.id, view, ink, (text) => (this.note.textContent = text));
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

  /** Show how loud it is. @param {number} heard factor of its side, 0 if it isn't heard */
  showLevel(heard) {
    drawMeter(this.bars, heard ? level(this.channel.meter) : 0);
  }

  /** Change the channel. @param {object} values */
  set(values) {
    Object.assign(this.channel, values);
    this.dispatchEvent(new Event('mix'));
  }

  /** Remove the row. */
  close() {
    this.waveform.close();
    this.row.remove();
  }

  #title(ink) {
    return el('h3', { class: 'lane-name', title: this.channel.file.file ?? '' }, el('i', { class: 'dot', 'aria-hidden': 'true' }), this.label);
  }

  #buttons() {
    const button = (text, title, handler) =>
      el('button', { class: 'key', 'aria-pressed': 'false', 'aria-label': `${title} ${this.label}`, title, text, onclick: handler });
    this.mute = button('M', 'Mute', () => this.set({ mute: !this.channel.mute }));
    this.solo = button('S', 'Solo', () => this.set({ solo: !this.channel.solo }));
    this.spectrum = button('≋', 'Spectrogram of', () => {
      const on = this.spectrum.getAttribute('aria-pressed') !== 'true';
      this.spectrum.setAttribute('aria-pressed', String(on));
      this.waveform.showSpectrum(on);
    });
    return [el('div', { class: 'keys' }, this.mute, this.solo, this.spectrum)];
  }

  #volume() {
    this.reading = el('span', { class: 'reading' });
    this.volume = el('input', {
      type: 'range', min: SILENT_DB, max: 12, step: 0.5, 'aria-label': `Volume of ${this.label}`, title: 'Volume; double-click: 0 dB',
      oninput: () => this.set({ db: Number(this.volume.value) }),
      ondblclick: () => this.set({ db: 0 }),
    });
    return el('div', { class: 'control' }, el('span', { class: 'control-name', text: 'Vol', 'aria-hidden': 'true' }), this.volume, this.reading);
  }

  #pan() {
    this.panReading = el('span', { class: 'reading' });
    this.pan = el('input', {
      type: 'range', min: -1, max: 1, step: 0.05, 'aria-label': `Pan of ${this.label}`, title: 'Pan; double-click: centre',
      oninput: () => this.set({ pan: Number(this.pan.value) }),
      ondblclick: () => this.set({ pan: 0 }),
    });
    return el('div', { class: 'control' }, el('span', { class: 'control-name', text: 'Pan', 'aria-hidden': 'true' }), this.pan, this.panReading);
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
  const name = el('h3', { class: 'lane-name' }, el('i', { class: 'dot', 'aria-hidden': 'true' }), stemName(stem.name));
  const note = el('p', { class: 'lane-note note', text: `Not played: ${stem.error}` });
  return el('div', { class: 'lane broken', role: 'group', 'aria-label': stemName(stem.name) }, el('div', { class: 'lane-head' }, name), el('div', { class: 'lane-wave' }, note));
}
