/** The dialog that saves the mix, the karaoke version or all stems. */

import { post, save } from './api.js';
import { byId, decibels, el, say } from './dom.js';
import { FormatChoice } from './formats.js';

const CLIPS = { common: 'turn the whole mix down', clamp: 'cut peaks off', none: 'do nothing' };
const VOCALS = /^(vocals|lead|backing|speech|choir)/;

/** Connect the dialog. @param {any} about @param {import('./desk.js').Desk} desk */
export function connectSave(about, desk) {
  const dialog = byId('save');
  const format = new FormatChoice(about);
  const clips = Object.entries(CLIPS).map(([value, text]) => el('option', { value, text }));
  const clip = el('select', {}, ...clips);
  const told = el('p', { class: 'note', role: 'status' });
  const rendered = (/** @type {object[]} */ lanes, /** @type {string} */ kind) =>
    render(desk, lanes, kind, { ...format.settings, clip: clip.value }, told);
  const zip = () => save(`api/results/${desk.result.id}/zip`);
  const form = el(
    'form',
    { method: 'dialog' },
    el('h2', { id: 'save-title', text: 'Save' }),
    el('div', { class: 'row' }, ...format.parts, el('label', {}, 'If it would clip ', clip)),
    el(
      'div',
      { class: 'saves' },
      choice('This mix', 'What you hear: volumes, pans, mutes and solos', () => rendered(desk.mix(), 'mix')),
      choice('Karaoke', 'All stems but the vocals, as they are', () => rendered(karaoke(desk), 'karaoke')),
      choice('All stems as ZIP', 'The files as they lie in the folder', zip),
    ),
    told,
    el('div', { class: 'actions' }, el('button', { text: 'Close' })),
  );
  dialog.append(form);
  byId('open-save').addEventListener('click', () => {
    told.textContent = '';
    dialog.showModal();
  });
}

/** Return a large button with a note. @param {string} text @param {string} note @param {() => void} onclick */
function choice(text, note, onclick) {
  return el(
    'button',
    { type: 'button', class: 'choice', onclick },
    el('b', { text }),
    el('span', { text: note }),
  );
}

/** Render a mix on the server, and have the browser save it. */
async function render(desk, lanes, kind, settings, told) {
  told.className = 'note';
  told.textContent = 'Rendering…';
  try {
    if (!lanes.length) throw new Error('Nothing is to be heard in this mix');
    const made = await post('api/exports', { ...settings, lanes, name: `${desk.song.name} (${kind})` });
    save(`api/exports/${made.id}`);
    const gain =
      Math.abs(made.gain_db) < 0.005
        ? ''
        : ` It is turned down by ${decibels(-made.gain_db, 2).slice(1)}, so that nothing clips.`;
    told.textContent = `${made.name} is saved.${gain}`;
    say(told.textContent);
  } catch (error) {
    told.className = 'bad';
    told.textContent = [error.message, error.hint].filter(Boolean).join(' – ');
  }
}

/** Return all stems but the vocals; the accompaniment alone if there are no parts of it. */
function karaoke(desk) {
  const own = desk.player.channels.filter((one) => one.side === 'a').map((one) => one.file);
  const parts = own.filter((file) => !file.derived && !VOCALS.test(file.name));
  const chosen = parts.length
    ? parts
    : own.filter((file) => ['no_vocals', 'instrumental', 'accompaniment'].includes(file.name));
  return chosen.map((file) => ({ id: file.id }));
}
