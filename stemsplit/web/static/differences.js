/** The table that compares two results stem by stem. */

import { get } from './api.js';
import { byId, decibels, el, stemName } from './dom.js';

let shown = 0; // number of the comparison that is shown

/** Show how two results differ, or nothing. @param {any} one @param {any} other */
export async function showDifferences(one, other) {
  const own = ++shown;
  byId('differences').hidden = !other;
  if (!other) return;
  const rows = el('tbody');
  const heads = ['Stem', 'Level of A', 'Level of B', 'Difference', 'Null depth'];
  const head = el('tr', {}, ...heads.map((text) => el('th', { scope: 'col', text })));
  const caption = el('caption', {
    text: 'Null depth: how far the difference lies below the louder of the two. Equal files have −∞ dB of difference.',
  });
  byId('difference-table').replaceChildren(el('table', {}, caption, el('thead', {}, head), rows));
  for (const [stem, partner] of pairs(one.stems, other.stems)) {
    const cells = await compared(stem, partner);
    if (own !== shown) return;
    rows.append(
      el(
        'tr',
        { 'data-stem': (stem ?? partner).name },
        el('th', { scope: 'row', text: stemName((stem ?? partner).name) }),
        ...cells.map((text) => el('td', { text })),
      ),
    );
  }
}

/**
 * Return the stems of two results with those of the same name; one that only one of them has is alone.
 * @param {any[]} one @param {any[]} other
 */
function pairs(one, other) {
  const find = (/** @type {any[]} */ stems, /** @type {string} */ name) =>
    stems.find((stem) => stem.name === name);
  const more = other.filter((stem) => !find(one, stem.name));
  return [...one.map((stem) => [stem, find(other, stem.name)]), ...more.map((stem) => [undefined, stem])];
}

/** @param {any} stem @param {any} partner @returns {Promise<string[]>} */
async function compared(stem, partner) {
  if (!partner) return ['only in A', '', '', ''];
  if (!stem) return ['only in B', '', '', ''];
  const rates = [stem, partner].map((one) => one.sample_rate);
  if (rates.every(Boolean) && rates[0] !== rates[1])
    return [`${rates[0]} Hz and ${rates[1]} Hz can’t be compared`, '', '', ''];
  try {
    const found = await get(`api/compare?a=${stem.id}&b=${partner.id}`);
    const same = found.difference_db <= -199;
    const depth = same ? 'equal' : `${found.null_depth_db.toFixed(1)} dB`;
    return [...[found.level_a_db, found.level_b_db, found.difference_db].map((db) => decibels(db)), depth];
  } catch (error) {
    return [error.message, '', '', ''];
  }
}
