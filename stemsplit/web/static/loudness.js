/** Equal loudness of what is compared, from the energies that the server measures once (see `loudness.py`). */

import { get } from './api.js';
import { gains } from './channel.js';

const MOST_DB = 24;

/** @type {WeakMap<object, Promise<any>>} what the server measured for a player */
const measured = new WeakMap();

/**
 * Return factors for the sides that make them as loud as side a, or null if that can't be known.
 * @param {import('./player.js').Player} player
 * @param {boolean} equal false returns factors of 1
 * @param {(text: string) => void} told
 */
export async function matchLoudness(player, equal, told) {
  const sides = ['a', 'b', 'original'].filter((side) =>
    player.channels.some((channel) => channel.side === side),
  );
  if (!equal) return Object.fromEntries(sides.map((side) => [side, 1]));
  try {
    if (!measured.has(player)) {
      told('measuring the loudness…');
      const ids = player.channels.map((channel) => channel.file.id).join(',');
      measured.set(player, get(`api/loudness?ids=${ids}`));
    }
    const { energy } = await measured.get(player);
    const own = Object.fromEntries(sides.map((side) => [side, energyOf(player, side, energy)]));
    const most = 10 ** (MOST_DB / 20);
    const factor = (/** @type {string} */ side) => (own.a && own[side] ? Math.sqrt(own.a / own[side]) : 1);
    return Object.fromEntries(sides.map((side) => [side, Math.min(most, Math.max(1 / most, factor(side)))]));
  } catch (error) {
    measured.delete(player);
    told(error.message);
    return null;
  }
}

/** Return the K-weighted energy of a side's mix: gᵀ G g, summed over left and right. */
function energyOf(player, side, energy) {
  let sum = 0;
  for (const ear of [0, 1]) {
    const factors = player.channels.map((one) =>
      one.side === side && one.audible ? gains(one.db, one.pan)[ear] : 0,
    );
    factors.forEach((x, i) => factors.forEach((y, j) => (sum += x * y * energy[ear][i][j])));
  }
  return Math.max(0, sum);
}
