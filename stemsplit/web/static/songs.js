/** The list of songs. */

import { get } from './api.js';
import { byId, el, plural } from './dom.js';

/** The songs that the server knows. */
export class Songs {
  /** @param {import('./desk.js').Desk} desk */
  constructor(desk) {
    this.desk = desk;
    /** @type {any[]} */
    this.all = [];
    byId('song-filter').addEventListener('input', () => this.show());
    desk.addEventListener('open', () => this.show());
  }

  /** Ask the server again. */
  async load() {
    const { songs, complete } = await get('api/songs');
    this.all = songs;
    const note = byId('songs-note');
    note.hidden = complete && songs.length > 0;
    note.textContent = complete
      ? 'None yet'
      : 'There are more folders than can be searched: name fewer to see all.';
    this.show();
  }

  /** Show the songs that match the filter. */
  show() {
    const words = byId('song-filter').value.toLowerCase().split(/\s+/);
    const found = this.all.filter((song) =>
      words.every((/** @type {string} */ word) => `${song.folder} ${song.name}`.toLowerCase().includes(word)),
    );
    byId('songs').replaceChildren(...found.map((song) => this.#row(song)));
    byId('song-filter').hidden = this.all.length < 8;
  }

  #row(song) {
    const count = song.results.length;
    const what = !count
      ? 'not separated'
      : count === 1
        ? plural(song.results[0].stems.length, 'stem')
        : plural(count, 'result');
    const current = song.id === this.desk.song?.id;
    const open = () => {
      location.hash = song.id;
      this.desk.open(song.id);
      byId('side').classList.remove('open');
      byId('toggle-songs').setAttribute('aria-expanded', 'false');
    };
    const button = el(
      'button',
      { 'aria-current': current ? 'true' : null, onclick: open },
      el('span', { class: 'name', text: song.name }),
      el('span', { class: 'note', text: what }),
    );
    return el('li', {}, button);
  }
}
