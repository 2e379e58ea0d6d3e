/** Level meters: the peak of what is heard, from -60 dB to full scale, and a mark while it clips. */

import { colour } from './waveform.js';

const FLOOR_DB = -60;
const FALL_DB = 1.6; // per picture
const CLIP_MS = 1500; // for which the mark stays

/** @type {WeakMap<HTMLCanvasElement, {db: number, clipped: number}>} */
const states = new WeakMap();

/**
 * Draw a level.
 * @param {HTMLCanvasElement} canvas
 * @param {number} peak 1 is full scale
 */
export function drawMeter(canvas, peak) {
  const state = states.get(canvas) ?? { db: FLOOR_DB, clipped: -Infinity };
  const now = performance.now();
  const before = { ...state };
  state.db = Math.max(20 * Math.log10(Math.max(peak, 1e-6)), state.db - FALL_DB, FLOOR_DB);
  if (peak > 1) state.clipped = now;
  states.set(canvas, state);
  if (before.db === state.db && state.db === FLOOR_DB && now - state.clipped > 2 * CLIP_MS) return;
  const pen = canvas.getContext('2d');
  const { width, height } = canvas;
  pen.fillStyle = colour(canvas, '--well');
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = colour(canvas, state.db > -1 ? '--hot' : state.db > -9 ? '--warm' : '--level');
  pen.fillRect(0, 0, Math.min(1, 1 - state.db / FLOOR_DB) * width, height);
  if (now - state.clipped < CLIP_MS) {
    pen.fillStyle = colour(canvas, '--hot');
    pen.fillRect(width - 4, 0, 4, height);
  }
}
