/** Small helpers for elements and for words. Text is never parsed as HTML. */

/**
 * Return the element of the page with an id.
 * @param {string} id
 * @returns {any}
 */
export const byId = (id) => document.getElementById(id);

/**
 * Return a new element.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] a name beginning with `on` is a listener; `text` is the content;
 *   null and false leave an attribute out
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'text') node.textContent = value;
    else if (name in node && typeof value === 'boolean' && !name.startsWith('aria')) node[name] = value;
    else if (value !== null && value !== false) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Tell a screen reader something. @param {string} text */
export function say(text) {
  byId('status').textContent = text;
}

/**
 * Return seconds as `1:02:03.4`.
 * @param {number} seconds
 * @param {number} [decimals]
 */
export function clock(seconds, decimals = 0) {
  const unit = 10 ** decimals;
  const whole = Math.floor(Math.max(0, seconds) * unit + 1e-6);
  const rest = (whole / unit) % 60;
  const minutes = Math.floor(whole / unit / 60);
  const shown = rest.toFixed(decimals).padStart(decimals ? 3 + decimals : 2, '0');
  const hours = Math.floor(minutes / 60);
  return hours ? `${hours}:${String(minutes % 60).padStart(2, '0')}:${shown}` : `${minutes}:${shown}`;
}

/** Return a duration in words, such as `3 min 20 s`. @param {number} seconds */
export function inWords(seconds) {
  const all = Math.round(seconds);
  if (all < 60) return `${all} s`;
  if (all < 3600) return `${Math.floor(all / 60)} min ${all % 60} s`;
  return `${Math.floor(all / 3600)} h ${Math.floor((all % 3600) / 60)} min`;
}

/** Return a level with its sign, such as `−3.5 dB`. @param {number} db @param {number} [decimals] */
export function decibels(db, decimals = 1) {
  if (!Number.isFinite(db) || db <= -199) return '−∞ dB';
  const shown = Math.abs(db).toFixed(decimals);
  return `${Number(shown) === 0 ? '' : db < 0 ? '−' : '+'}${shown} dB`;
}

/** Return bytes as `84 MB`. @param {number | null} bytes */
export function size(bytes) {
  if (bytes === null) return 'size unknown';
  if (bytes === 0) return 'no download';
  return bytes < 1e9 ? `${Math.max(1, Math.round(bytes / 1e6))} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

/** Return a count with its noun. @param {number} count @param {string} noun */
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? '' : 's'}`;

/** Return the name of a stem in words, such as `no vocals`. @param {string} stem */
export const stemName = (stem) => stem.replaceAll('_', ' ');

const HUES = ['vocals', 'drums', 'bass', 'guitar', 'piano', 'other', 'instrumental'];

/** Return where a stem stands in the mixer, as text to compare. @param {{name: string, derived: boolean}} stem */
export function orderOf({ name, derived }) {
  const place = HUES.indexOf(name);
  return `${Number(derived)} ${place < 0 ? HUES.length : place} ${name}`;
}

/** Return the CSS variable with the colour of a stem. @param {string} stem */
export function colourOf(stem) {
  const base = stem.split('.').pop() ?? stem;
  const known =
    HUES.find((one) => base === one) ?? (/^(no_|accompaniment)/.test(base) ? 'instrumental' : null);
  const any = HUES[[...stem].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % HUES.length];
  return `--stem-${known ?? any}`;
}
