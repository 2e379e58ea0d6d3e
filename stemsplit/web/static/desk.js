/** The song that is open: its player, lanes, and what of it is heard. */

import { get } from './api.js';
import { level, SILENT_DB } from './channel.js';
import { showDifferences } from './differences.js';
import { byId, clock, decibels, el, orderOf, say, stemName } from './dom.js';
import { brokenRow, Lane } from './lanes.js';
import { drawMeter } from './meter.js';
import { matchLoudness } from './loudness.js';
import { Player } from './player.js';
import { Stage } from './stage.js';
import { View } from './view.js';

/** What the page shows of songs; it emits `open`, `change` and `listen`. */
export class Desk extends EventTarget {
  constructor() {
    super();
    this.song = null;
    this.player = null;
    this.equal = true;
    /** @type {Lane[]} */
    this.lanes = [];
    byId('result').addEventListener('change', () => this.choose(byId('result').value, this.other?.id));
    byId('other').addEventListener('change', () => this.choose(this.result.id, byId('other').value));
    const paint = () => {
      this.#paint();
      requestAnimationFrame(paint);
    };
    requestAnimationFrame(paint);
  }

  /** Open a song, showing its newest result or the one that is named. @param {string} id @param {string} [result] */
  async open(id, result) {
    const own = (this.opening = (this.opening ?? 0) + 1);
    byId('problem').hidden = true;
    let song;
    try {
      song = await get(`api/songs/${id}`);
    } catch (error) {
      this.#fail(error);
      return;
    }
    if (own !== this.opening) return; // another one was chosen meanwhile
    this.song = song;
    history.replaceState(null, '', `#${song.id}`); // a song that was separated has another id than before
    byId('empty').hidden = true;
    byId('song').hidden = false;
    byId('song-name').textContent = this.song.name;
    document.title = `${this.song.name} – stemsplit`;
    const results = this.song.results;
    this.#fill(byId('result'), results, null);
    byId('separate-this').hidden = results.length > 0;
    byId('result-choice').hidden = results.length < 2;
    await this.choose(result ?? results.at(-1)?.id ?? null);
    this.dispatchEvent(new Event('open'));
  }

  /** Show a result, perhaps beside another. @param {string | null} id @param {string} [other] */
  async choose(id, other) {
    const find = (/** @type {string | null | undefined} */ one) =>
      this.song.results.find((result) => result.id === one);
    this.result = find(id) ?? null;
    this.other = other && other !== id ? (find(other) ?? null) : null;
    const others = this.song.results.filter((one) => one.id !== id);
    this.#fill(byId('other'), others, 'nothing');
    byId('other').value = this.other?.id ?? '';
    if (id) byId('result').value = id;
    byId('other-choice').hidden = !others.length;
    this.#close();
    byId('song-facts').textContent = this.#facts();
    byId('transport').hidden = false;
    byId('open-save').hidden = !this.result;
    this.#load();
  }

  /** Hear a key of LISTENS. @param {string} what */
  listen(what) {
    if (!this.player || byId(`listen-${what}`)?.disabled !== false) return;
    this.player.listen(what);
    for (const radio of byId('listen').querySelectorAll('input[name=listen]'))
      radio.checked = radio.value === what;
    this.lanes.forEach((lane) => lane.show());
    this.dispatchEvent(new Event('listen'));
  }

  /** Return lanes of the mix as the server renders them. */
  mix() {
    const heard = this.player.channels.filter((one) => one.side === 'a' && one.audible && one.db > SILENT_DB);
    return heard.map((one) => ({ id: one.file.id, gain_db: one.db, pan: one.pan }));
  }

  #close() {
    this.stage?.close();
    this.player?.close();
    this.context?.close();
    this.lanes.forEach((lane) => lane.close());
    this.lanes = [];
    byId('lanes').replaceChildren();
    this.player = this.stage = this.context = null;
  }

  #load() {
    const original = this.song.original?.error === null ? this.song.original : null;
    const rate = this.result?.sample_rate ?? original?.sample_rate;
    if (!rate) {
      this.#fail(new Error(this.song.original?.error ?? 'No stem of this song can be read'));
      return;
    }
    const frames = Math.max(this.result?.frames ?? 0, this.other?.frames ?? 0) || (original?.frames ?? 0);
    this.context = newContext(rate);
    this.player = new Player(this.context, rate, frames);
    this.view = new View(frames);
    this.#addLanes(original, rate, frames);
    this.stage = new Stage(this.player, this.view);
    this.player.addEventListener('failure', (event) => this.#fail(event.detail));
    for (const name of ['change', 'stall'])
      this.player.addEventListener(name, () => this.dispatchEvent(new Event('change')));
    this.player.volume(Number(byId('master').value));
    this.player.seek(0);
    this.stage.draw();
    showDifferences(this.result, this.other);
    this.dispatchEvent(new Event('change'));
  }

  #addLanes(original, rate, frames) {
    if (!this.result) this.#addLane([[{ ...original, name: 'original' }, 'a']], 'original');
    for (const pair of this.#pairs()) {
      const readable = pair.filter(([stem]) => !whyNot(stem, rate));
      for (const [stem] of pair) {
        const error = whyNot(stem, rate);
        if (error) byId('lanes').append(brokenRow({ ...stem, error }));
      }
      if (readable.length) this.#addLane(readable, stemName(pair[0][0].name));
    }
    const fits =
      original && original.sample_rate === rate && (original.estimated || original.frames === frames);
    this.original =
      this.result && fits ? this.player.add({ ...original, name: 'original' }, 'original') : null;
    this.player.mix();
    this.lanes.forEach((lane) => lane.show());
    this.#offer(original, Boolean(fits));
  }

  /** Return the stems with their sides, those of one name in both results together. */
  #pairs() {
    const stems = [
      ['a', this.result],
      ['b', this.other],
    ].flatMap(([side, result]) => (result?.stems ?? []).map((stem) => [stem, side]));
    const names = [
      ...new Set(
        stems.sort(([one], [other]) => orderOf(one).localeCompare(orderOf(other))).map(([stem]) => stem.name),
      ),
    ];
    return names.map((name) => stems.filter(([stem]) => stem.name === name));
  }

  #addLane(stems, label) {
    const channels = stems.map(([stem, side]) => this.player.add(stem, side));
    const [[first]] = stems;
    for (const channel of channels)
      Object.assign(channel, { mute: Boolean(first.derived), ...recall(first.id) });
    const lane = new Lane(channels, this.view, label);
    lane.addEventListener('mix', () => {
      this.player.mix();
      this.lanes.forEach((one) => one.show());
      remember(first.id, lane.channel);
      this.#match();
    });
    this.lanes.push(lane);
    byId('lanes').append(lane.row);
  }

  /** Offer what can be heard. */
  #offer(original, fits) {
    const why = original
      ? `The original has another length or sample rate`
      : 'The original of these stems isn’t known';
    const rows = [['a', this.other ? `A: ${madeBy(this.result)}` : 'Mix', '']];
    if (this.other) {
      const reason = this.#whyNoB();
      rows.push(['b', `B: ${madeBy(this.other)}`, reason], ['difference', 'Difference A − B', reason]);
    }
    if (this.result) rows.push(['original', 'Original', fits ? '' : why]);
    const radios = rows.map(([value, text, problem]) => {
      const radio = el('input', {
        type: 'radio',
        name: 'listen',
        id: `listen-${value}`,
        value,
        disabled: Boolean(problem),
        checked: value === 'a',
        onchange: () => this.listen(value),
      });
      return el('label', { title: problem || null }, radio, el('span', { text }));
    });
    const equal = el('input', {
      type: 'checkbox',
      id: 'equal',
      checked: this.equal,
      onchange: () => {
        this.equal = byId('equal').checked;
        this.#match();
      },
    });
    const note = el('span', { id: 'equal-note', class: 'note' });
    byId('listen').replaceChildren(el('div', { class: 'segments' }, ...radios));
    byId('listen').hidden = rows.length < 2;
    if (fits || this.other)
      byId('listen').append(el('label', { class: 'check' }, equal, 'Equally loud'), note);
    this.#match();
  }

  /** Return why no stem of B can be played, or nothing. */
  #whyNoB() {
    if (this.player.channels.some(({ side }) => side === 'b')) return '';
    const { stems } = this.other;
    const readable = stems.find((/** @type {any} */ stem) => stem.error === null);
    return whyNot(readable ?? stems[0], this.player.rate) ?? '';
  }

  /** Make what can be heard equally loud. */
  async #match() {
    const note = byId('equal-note');
    if (!note || !(this.original || this.other)) return;
    const player = this.player;
    const found = await matchLoudness(player, this.equal, (text) => (note.textContent = text));
    if (player !== this.player || !found) return;
    player.match(found);
    const shown = Object.entries(found).filter(([side]) => side !== 'a');
    const names = { b: 'B', original: 'original' };
    note.textContent = this.equal
      ? shown.map(([side, factor]) => `${names[side]} ${decibels(20 * Math.log10(factor))}`).join(', ')
      : '';
  }

  #facts() {
    const one = this.result ?? this.song.original;
    if (!one?.sample_rate) return '';
    const length = clock((one.frames ?? 0) / one.sample_rate);
    const parts = [length, `${one.sample_rate / 1000} kHz`];
    if (!this.result) parts.push('not separated yet');
    else if (this.result.made) parts.push(`made by stemsplit with ${madeBy(this.result)}`);
    return parts.join(' · ');
  }

  #fill(select, results, none) {
    const options = results.map((result) =>
      el('option', { value: result.id, text: `${result.folder}: ${madeBy(result)}` }),
    );
    if (none) options.unshift(el('option', { value: '', text: none }));
    select.replaceChildren(...options);
  }

  #paint() {
    if (!this.player || document.hidden) return;
    for (const lane of this.lanes) lane.showLevel(this.player.heard);
    drawMeter(byId('master-meter'), level(this.player.meter));
    if (!this.player.playing) return;
    this.view.follow(this.player.position());
    this.stage.drawPlayhead();
    this.dispatchEvent(new Event('move'));
  }

  #fail(error) {
    const text = [error.message, error.hint].filter(Boolean).join(' – ');
    byId('problem').textContent = text;
    byId('problem').hidden = false;
    say(text);
  }
}

/** Return an AudioContext at the song's own rate, so that nothing is resampled in the page. @param {number} rate */
function newContext(rate) {
  try {
    return new AudioContext({ sampleRate: rate, latencyHint: 'interactive' });
  } catch {
    return new AudioContext(); // a browser that doesn't know this rate
  }
}

/**
 * Return why a stem can't be played at a sample rate, or null.
 * @param {{error: string | null, sample_rate: number}} stem
 * @param {number} rate
 */
function whyNot({ error, sample_rate: own }, rate) {
  if (error !== null || own === rate) return error;
  return `has ${own} Hz and the others ${rate} Hz, so it isn’t played with them`;
}

/** Return model and settings of a result in words. @param {any} result */
export function madeBy(result) {
  if (!result?.made) return result?.folder ?? '';
  const told = Object.entries(result.made.settings).map(
    ([key, value]) => `${key.replace(/_s$/, '')} ${value}`,
  );
  return [result.made.model, ...told].join(', ');
}

/** Keep a lane's settings for when the page is loaded again. */
function remember(id, { db, pan, mute, solo }) {
  sessionStorage.setItem(`lane/${id}`, JSON.stringify({ db, pan, mute, solo }));
}

/** @param {string} id */
function recall(id) {
  return JSON.parse(sessionStorage.getItem(`lane/${id}`) ?? '{}');
}
