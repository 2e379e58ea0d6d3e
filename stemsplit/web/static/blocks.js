/** Blocks of samples of the stems, fetched when they are needed and kept while there is room. */

import { bytes } from './api.js';

/** Samples of a block; 3 s at 44.1 kHz. */
export const BLOCK = 1 << 17;
const MOST_BYTES = 600 << 20; // four stems of almost eight minutes stay in memory
const BYTES_PER_SAMPLE = 4;

/** A cache of AudioBuffers by file and number of the block. */
export class Blocks {
  /**
   * @param {BaseAudioContext} context
   * @param {number} rate sample rate of the files in Hz
   * @param {Map<string, number>} channels number of channels by file, 1 or 2
   */
  constructor(context, rate, channels) {
    this.context = context;
    this.rate = rate;
    this.channels = channels;
    /** @type {Map<string, AudioBuffer>} in the order of use */
    this.kept = new Map();
    /** @type {Map<string, Promise<AudioBuffer>>} */
    this.coming = new Map();
    this.size = 0;
  }

  /** Return a block that is here, or undefined. @param {string} file @param {number} index */
  peek(file, index) {
    const key = `${file}/${index}`;
    const found = this.kept.get(key);
    if (found) {
      this.kept.delete(key);
      this.kept.set(key, found);
    }
    return found;
  }

  /**
   * Return a block, fetched if it isn't here.
   * @param {string} file
   * @param {number} index
   * @returns {Promise<AudioBuffer>}
   */
  async want(file, index) {
    const here = this.peek(file, index);
    if (here) return here;
    const key = `${file}/${index}`;
    const coming = this.coming.get(key);
    if (coming) return coming;
    const fetched = this.#fetch(file, index).then((buffer) => this.#keep(key, buffer));
    this.coming.set(key, fetched);
    try {
      return await fetched;
    } finally {
      this.coming.delete(key);
    }
  }

  /** @param {string} file @param {number} index */
  async #fetch(file, index) {
    const data = await bytes(`api/files/${file}/pcm?start=${index * BLOCK}&frames=${BLOCK}`);
    return this.#buffer(new Float32Array(data), this.channels.get(file) ?? 2);
  }

  /** @param {Float32Array} samples interleaved @param {number} channels */
  #buffer(samples, channels) {
    const frames = samples.length / channels;
    const buffer = this.context.createBuffer(channels, Math.max(1, frames), this.rate);
    for (let channel = 0; channel < channels && frames; channel++) {
      const out = buffer.getChannelData(channel);
      for (let i = 0; i < frames; i++) out[i] = samples[i * channels + channel];
    }
    return buffer;
  }

  /** @param {string} key @param {AudioBuffer} buffer */
  #keep(key, buffer) {
    this.kept.set(key, buffer);
    this.size += buffer.length * buffer.numberOfChannels * BYTES_PER_SAMPLE;
    for (const [old, one] of this.kept) {
      if (this.size <= MOST_BYTES || old === key) break;
      this.kept.delete(old);
      this.size -= one.length * one.numberOfChannels * BYTES_PER_SAMPLE;
    }
    return buffer;
  }
}
