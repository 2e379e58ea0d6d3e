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
  for (const stem of one.stems) {
    const partner = other.stems.find((/** @type {any} */ each) => each.name === stem.name);
    const cells = await compared(stem, partner);
    if (own !== shown) return;
    rows.append(
      el(
        'tr',
        { 'data-stem': stem.name },
        el('th', { scope: 'row', text: stemName(stem.name) }),
        ...cells.map((text) => el('td', { text })),
      ),
    );
  }
}

/** @param {any} stem @param {any} partner @returns {Promise<string[]>} */
async function compared(stem, partner) {
  if (!partner) return ['only in A', '', '', ''];
  try {
    const found = await get(`api/compare?a=${stem.id}&b=${partner.id}`);
    const same = found.difference_db <= -199;
    const depth = same ? 'equal' : `${found.null_depth_db.toFixed(1)} dB`;
    return [...[found.level_a_db, found.level_b_db, found.difference_db].map((db) => decibels(db)), depth];
  } catch (error) {
    return [error.message, '', '', ''];
  }
}
