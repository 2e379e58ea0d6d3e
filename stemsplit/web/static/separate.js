/** The dialog that separates songs: which ones, by which model, into what. */

import { post, upload } from './api.js';
import { Chooser } from './chooser.js';
import { byId, el, stemName } from './dom.js';
import { FormatChoice } from './formats.js';

const QUALITIES = { fast: 'Fast', balanced: 'Balanced', best: 'Best (much slower)' };

/** The dialog. */
export class Separate {
  /** @param {any} about what the server told about itself @param {import('./desk.js').Desk} desk @param {import('./queue.js').Queue} queue */
  constructor(about, desk, queue) {
    Object.assign(this, { about, desk, queue });
    /** @type {(File | {song: string, name: string})[]} */
    this.songs = [];
    /** @type {WeakMap<File, string>} ids of the uploads of files that were sent already */
    this.uploads = new WeakMap();
    this.sending = false;
    this.dialog = byId('separate');
    this.chooser = new Chooser(about.model, () => this.#showStems());
    this.format = new FormatChoice(about);
    this.#build();
    byId('open-separate').addEventListener('click', () => this.open());
    byId('separate-this').addEventListener('click', () => this.open());
    this.#acceptDrops();
  }

  /** Open the dialog, with songs or with the one that is open. @param {File[]} [files] */
  async open(files = []) {
    if (files.length) {
      this.songs.push(...files);
    } else if (this.desk.song?.has_original && !this.songs.some((song) => song instanceof File)) {
      this.songs = [{ song: this.desk.song.id, name: this.desk.song.name }];
    }
    this.problem.hidden = true;
    this.#showSongs();
    if (!this.dialog.open) this.dialog.showModal();
    await this.chooser.load();
    this.#showStems();
    this.start.focus();
  }

  #build() {
    this.list = el('ul', { class: 'picked' });
    this.stems = el('div', { class: 'checks', onchange: () => this.#showStart() });
    this.none = el('p', { class: 'bad', role: 'alert', hidden: true, text: 'Choose at least one stem.' });
    this.problem = el('p', { class: 'bad', role: 'alert', hidden: true });
    this.start = el('button', { class: 'primary', type: 'submit', text: 'Separate' });
    const drop = this.#dropzone();
    const form = el(
      'form',
      { method: 'dialog', onsubmit: (event) => this.#submit(event) },
      el('h2', { id: 'separate-title', text: 'Separate songs' }),
      this.picker,
      drop,
      this.list,
      el('fieldset', {}, el('legend', { text: 'Model' }), ...this.chooser.parts),
      el('fieldset', {}, el('legend', { text: 'Stems' }), this.stems, this.none),
      el('div', { class: 'row' }, this.#quality(), ...this.format.parts),
      this.problem,
      el(
        'div',
        { class: 'actions' },
        el('button', { type: 'button', text: 'Cancel', onclick: () => this.dialog.close() }),
        this.start,
      ),
    );
    this.dialog.append(form);
  }

  #dropzone() {
    this.picker = el('input', {
      type: 'file',
      multiple: true,
      class: 'visually-hidden',
      id: 'picker',
      accept: 'audio/*,video/*',
      onchange: () => this.#pick(),
    });
    return el(
      'label',
      { class: 'dropzone', for: 'picker' },
      el('b', { text: 'Choose songs' }),
      ' or drop them anywhere on this page',
    );
  }

  #quality() {
    const options = this.about.qualities.map((name) =>
      el('option', { value: name, text: QUALITIES[name] ?? name, selected: name === this.about.quality }),
    );
    this.quality = el('select', {}, ...options);
    return el('label', {}, 'Quality ', this.quality);
  }

  #pick() {
    this.songs.push(...this.picker.files);
    this.picker.value = '';
    this.#showSongs();
  }

  #showSongs() {
    const rows = this.songs.map((song) => {
      const drop = () => {
        this.songs = this.songs.filter((one) => one !== song);
        this.#showSongs();
      };
      return el(
        'li',
        {},
        el('span', { class: 'name', text: song.name }),
        el('button', {
          type: 'button',
          class: 'quiet small',
          'aria-label': `Leave out ${song.name}`,
          text: '✕',
          onclick: drop,
        }),
      );
    });
    this.list.replaceChildren(...rows);
    this.#showStart();
  }

  /** Show whether there is something to separate, and into what. */
  #showStart() {
    const boxes = [...this.stems.querySelectorAll('input')];
    const none = boxes.length > 0 && !boxes.some((box) => box.checked);
    this.none.hidden = !none;
    if (this.sending) return;
    this.start.disabled = none || !this.songs.length;
    this.start.textContent = this.songs.length > 1 ? `Separate ${this.songs.length} songs` : 'Separate';
  }

  #showStems() {
    const boxes = (this.chooser.model?.stems ?? []).map((stem) =>
      el(
        'label',
        { class: 'check' },
        el('input', { type: 'checkbox', value: stem, checked: true }),
        stemName(stem),
      ),
    );
    this.stems.replaceChildren(...boxes);
    this.#showStart();
  }

  async #submit(event) {
    event.preventDefault();
    const boxes = [...this.stems.querySelectorAll('input')];
    const stems = boxes.filter((box) => box.checked).map((box) => box.value);
    const settings = {
      model: this.chooser.model?.name,
      quality: this.quality.value,
      ...this.format.settings,
    };
    if (stems.length < boxes.length) settings.stems = stems;
    this.start.disabled = this.sending = true;
    this.problem.hidden = true;
    try {
      while (this.songs.length) {
        const [song] = this.songs;
        this.queue.add(await this.#submitted(song, settings));
        this.songs = this.songs.filter((one) => one !== song);
      }
      this.dialog.close();
    } catch (error) {
      this.problem.textContent = [error.message, error.hint].filter(Boolean).join(' – ');
      this.problem.hidden = false;
    }
    this.sending = false;
    this.#showSongs();
    this.queue.load();
  }

  /** Queue a song, and return its job. A file is sent once, and again only if the server has forgotten it. */
  async #submitted(song, settings) {
    if (!(song instanceof File)) return post('api/jobs', { ...settings, song: song.song });
    const known = this.uploads.get(song);
    if (known) {
      try {
        return await post('api/jobs', { ...settings, upload: known });
      } catch (error) {
        if (error.status !== 404) throw error;
      }
    }
    const told = (/** @type {number} */ share) =>
      (this.start.textContent = `Sending ${song.name}: ${Math.round(100 * share)} %`);
    const { id } = await upload(song, told);
    this.uploads.set(song, id);
    return post('api/jobs', { ...settings, upload: id });
  }

  #acceptDrops() {
    const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes('Files');
    addEventListener('dragover', (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      byId('drop').hidden = false;
    });
    addEventListener('dragleave', (event) => {
      if (!event.relatedTarget) byId('drop').hidden = true;
    });
    addEventListener('drop', (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      byId('drop').hidden = true;
      this.open([...event.dataTransfer.files]);
    });
  }
}
