/**
 * Playback of stems in step to the sample.
 *
 * All stems of a song are cut at the same samples into blocks, and the blocks of all stems are scheduled on the
 * clock of one AudioContext at whole samples. So stems can't drift against each other or against the clock,
 * however long the song is. What is heard of a stem is changed by gains only, while it plays.
 */

import { Blocks, BLOCK } from './blocks.js';
import { Channel, glide } from './channel.js';

const LEAD = 2048; // samples between the decision to play and the first sample
const AHEAD_S = 2.5; // scheduled ahead; a tab in the background is only woken once per second
const FETCH_BLOCKS = 4; // fetched ahead
const TICK_MS = 60;
const SHORTEST_LOOP_S = 0.05;

/** The sides whose stems can be heard, and their factors. @type {Record<string, Record<string, number>>} */
export const LISTENS = {
  a: { a: 1, b: 0, original: 0 },
  b: { a: 0, b: 1, original: 0 },
  original: { a: 0, b: 0, original: 1 },
  difference: { a: 1, b: -1, original: 0 },
};

/** A player of one song. It emits `change` when it starts, stops or jumps, and `stall` while it waits. */
export class Player extends EventTarget {
  /**
   * @param {BaseAudioContext} context with the song's sample rate
   * @param {number} rate the song's sample rate in Hz
   * @param {number} frames the song's length in samples
   */
  constructor(context, rate, frames) {
    super();
    this.context = context;
    this.rate = rate;
    this.frames = frames;
    /** @type {Channel[]} */
    this.channels = [];
    this.blocks = new Blocks(context, rate, new Map());
    this.playing = false;
    this.stalled = false;
    /** @type {[number, number] | null} */
    this.loop = null;
    this.paused = 0; // position in samples while it doesn't play
    /** @type {{at: number, from: number, frames: number}[]} what is scheduled: clock and song in samples */
    this.segments = [];
    /** @type {Set<AudioBufferSourceNode>} */
    this.sources = new Set();
    this.#build();
  }

  #build() {
    this.master = this.context.createGain();
    this.meter = this.context.createAnalyser();
    this.meter.fftSize = 2048;
    this.master.connect(this.meter).connect(this.context.destination);
    /** @type {Record<string, GainNode>} */
    this.sides = {};
    for (const side of ['a', 'b', 'original']) {
      this.sides[side] = this.context.createGain();
      this.sides[side].connect(this.master);
    }
    this.matched = { a: 1, b: 1, original: 1 };
    this.listen('a');
  }

  /**
   * Add a file.
   * @param {{id: string, name: string, channels: number}} file
   * @param {string} side a, b or original
   * @returns {Channel}
   */
  add(file, side) {
    const channel = new Channel(this.context, file, side, this.sides[side]);
    this.blocks.channels.set(file.id, Math.min(2, file.channels));
    this.channels.push(channel);
    this.mix();
    return channel;
  }

  /** Apply volumes, mutes and solos; a solo silences the stems of both results, not the original. */
  mix() {
    const soloed = this.channels.some((one) => one.solo);
    for (const channel of this.channels) {
      const silenced = soloed && channel.side !== 'original';
      channel.apply(channel.solo || (!silenced && !channel.mute));
    }
  }

  /** Choose what is heard. @param {string} what a key of LISTENS */
  listen(what) {
    this.heard = what;
    for (const [side, node] of Object.entries(this.sides)) {
      const level = what === 'difference' ? 1 : this.matched[side];
      glide(node.gain, LISTENS[what][side] * level, this.context);
    }
  }

  /** Set the factors that make the sides equally loud. @param {Record<string, number>} factors */
  match(factors) {
    this.matched = { a: 1, b: 1, original: 1, ...factors };
    this.listen(this.heard);
  }

  /** Set the volume of everything. @param {number} db */
  volume(db) {
    glide(this.master.gain, db <= -60 ? 0 : 10 ** (db / 20), this.context);
  }

  /** Return the position in samples. */
  position() {
    if (!this.playing) return this.paused;
    const now = this.context.currentTime * this.rate;
    let found = this.segments[0];
    for (const segment of this.segments) if (segment.at <= now) found = segment;
    if (!found) return this.paused;
    return Math.round(found.from + Math.min(found.frames, Math.max(0, now - found.at)));
  }

  /** Start to play. */
  async play() {
    if (this.playing) return;
    if (this.context instanceof AudioContext) await this.context.resume();
    if (this.paused >= this.frames) this.paused = 0;
    this.playing = true;
    this.#begin(this.paused);
    this.timer = setInterval(() => this.#tick(), TICK_MS);
    this.#tick();
    this.dispatchEvent(new Event('change'));
  }

  /** Stop, and stay at the position. */
  pause() {
    this.paused = this.position();
    this.playing = false;
    clearInterval(this.timer);
    this.#drop();
    this.#stall(false);
    this.dispatchEvent(new Event('change'));
  }

  /** Go to a position, playing or not. @param {number} frame in samples */
  seek(frame) {
    this.paused = Math.round(Math.min(this.frames, Math.max(0, frame)));
    if (this.playing) {
      this.#begin(this.paused);
      this.#tick();
    } else {
      this.#fetch(this.paused);
    }
    this.dispatchEvent(new Event('change'));
  }

  /** Repeat a region, or with null nothing. @param {[number, number] | null} region in samples */
  setLoop(region) {
    const position = this.position();
    this.loop = null;
    if (region) {
      const [from, to] = region.map((frame) => Math.round(Math.min(this.frames, Math.max(0, frame))));
      if (to - from >= SHORTEST_LOOP_S * this.rate) this.loop = [from, to];
    }
    if (this.playing) {
      this.#begin(
        this.loop && (position < this.loop[0] || position >= this.loop[1]) ? this.loop[0] : position,
      );
      this.#tick();
    }
    this.dispatchEvent(new Event('change'));
  }

  /** Stop for good. */
  close() {
    if (this.playing) this.pause();
    this.master.disconnect();
  }

  /** Forget what is scheduled, and schedule from a sample of the song on. @param {number} frame */
  #begin(frame) {
    this.#drop();
    this.next = frame;
    this.at = Math.ceil(this.context.currentTime * this.rate) + LEAD;
    this.paused = frame;
  }

  #drop() {
    for (const source of this.sources) {
      source.stop();
      source.disconnect();
    }
    this.sources.clear();
    this.segments = [];
  }

  #tick() {
    const now = this.context.currentTime * this.rate;
    this.segments = this.segments.filter((one, i, all) => i === all.length - 1 || one.at + one.frames > now);
    while (this.playing && this.at < now + AHEAD_S * this.rate) {
      if (this.next >= this.frames) {
        if (now > this.at) this.#end();
        return;
      }
      if (!this.#schedule(now)) return;
    }
    this.#fetch(this.next);
  }

  /** Schedule the next segment of all stems; return false if a stem's samples aren't here yet. */
  #schedule(now) {
    const index = Math.floor(this.next / BLOCK);
    const buffers = this.channels.map((channel) => this.blocks.peek(channel.file.id, index));
    if (buffers.some((buffer) => !buffer)) {
      this.#fetch(this.next);
      this.#stall(this.at < now);
      return false;
    }
    if (this.at < now + LEAD / 2) this.at = Math.ceil(now) + LEAD; // all stems wait alike
    this.#stall(false);
    const [from, to] = [this.next, this.#segmentEnd(index)];
    this.channels.forEach((channel, i) => this.#start(channel, buffers[i], from - index * BLOCK, to - from));
    this.segments.push({ at: this.at, from, frames: to - from });
    this.at += to - from;
    this.next = this.loop && to === this.loop[1] ? this.loop[0] : to;
    return true;
  }

  /** @param {number} index of the block */
  #segmentEnd(index) {
    const end = Math.min((index + 1) * BLOCK, this.frames);
    return this.loop && this.next < this.loop[1] ? Math.min(end, this.loop[1]) : end;
  }

  /** @param {Channel} channel @param {AudioBuffer} buffer @param {number} offset @param {number} frames */
  #start(channel, buffer, offset, frames) {
    if (offset >= buffer.length) return; // this stem is shorter
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(channel.input);
    source.start(
      this.at / this.rate,
      offset / this.rate,
      Math.min(frames, buffer.length - offset) / this.rate,
    );
    source.addEventListener('ended', () => {
      source.disconnect();
      this.sources.delete(source);
    });
    this.sources.add(source);
  }

  /** Fetch the blocks of all stems from a sample on. @param {number} frame */
  #fetch(frame) {
    const first = Math.floor(frame / BLOCK);
    const last = Math.min(first + FETCH_BLOCKS, Math.ceil(this.frames / BLOCK));
    const wanted = [];
    for (let index = first; index < Math.max(last, first + 1); index++) wanted.push(index);
    if (this.loop) wanted.push(Math.floor(this.loop[0] / BLOCK));
    for (const index of wanted) {
      for (const channel of this.channels) {
        if (this.blocks.peek(channel.file.id, index)) continue; // there is nothing to wait for
        this.blocks.want(channel.file.id, index).then(
          () => this.playing && this.stalled && this.#tick(),
          (error) => this.dispatchEvent(new CustomEvent('failure', { detail: error })),
        );
      }
    }
  }

  #end() {
    this.playing = false;
    this.paused = 0;
    clearInterval(this.timer);
    this.#drop();
    this.dispatchEvent(new Event('change'));
  }

  /** @param {boolean} stalled */
  #stall(stalled) {
    if (stalled === this.stalled) return;
    this.stalled = stalled;
    this.dispatchEvent(new Event('stall'));
  }
}
