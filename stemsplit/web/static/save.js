/** The dialog that saves the mix, the karaoke version or all stems. */

import { post, save } from './api.js';
import { byId, decibels, el, say } from './dom.js';
import { FormatChoice } from './formats.js';

const CLIPS = { common: 'turn the whole mix down', clamp: 'cut peaks off', none: 'do nothing' };
const ACCOMPANIMENTS = ['no_vocals', 'instrumental', 'accompaniment'];

/** Connect the dialog. @param {any} about @param {import('./desk.js').Desk} desk */
export function connectSave(about, desk) {
  const dialog = byId('save');
  const format = new FormatChoice(about);
  const clips = Object.entries(CLIPS).map(([value, text]) => el('option', { value, text }));
  const clip = el('select', {}, ...clips);
  const told = el('p', { class: 'note', role: 'status' });
  const rendered = (/** @type {() => object[]} */ chosen, /** @type {string} */ kind) =>
    render(desk, chosen, kind, { ...format.settings, clip: clip.value }, told);
  const zip = () => save(`api/results/${desk.result.id}/zip`);
  const form = el(
    'form',
    { method: 'dialog' },
    el('h2', { id: 'save-title', text: 'Save' }),
    el('div', { class: 'row' }, ...format.parts, el('label', {}, 'If it would clip ', clip)),
    el(
      'div',
      { class: 'saves' },
      choice('This mix', 'What you hear: volumes, pans, mutes and solos', () => rendered(() => desk.mix(), 'mix')),
      choice('Karaoke', 'The song without its vocals', () => rendered(() => karaoke(desk), 'karaoke')),
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

/** Render what `chosen` returns on the server, and have the browser save it. */
async function render(desk, chosen, kind, settings, told) {
  told.className = 'note';
  told.textContent = 'Rendering…';
  try {
    const lanes = chosen();
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

/**
 * Return the accompaniment, or else all stems but the voices.
 * @throws {Error} if there is neither an accompaniment nor a voice that could be left out
 */
function karaoke(desk) {
  const own = desk.player.channels.filter((one) => one.side === 'a').map((one) => one.file);
  const accompaniment = own.find((file) => ACCOMPANIMENTS.includes(file.name));
  if (accompaniment) return [{ id: accompaniment.id }];
  if (!own.some((file) => file.voice)) throw new Error('This result has no vocals to leave out');
  const rest = own.filter((file) => !file.derived && !file.voice);
  if (!rest.length) throw new Error('This result has nothing but vocals');
  return rest.map((file) => ({ id: file.id }));
}
