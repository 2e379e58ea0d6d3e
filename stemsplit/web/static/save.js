/** The dialog that saves the mix, the karaoke version or all stems. */

import { post, save } from './api.js';
import { byId, decibels, el, say } from './dom.js';
import { fillDepths } from './separate.js';

const CLIPS = { common: 'turn the whole mix down', clamp: 'cut peaks off', none: 'do nothing' };
const VOCALS = /^(vocals|lead|backing|speech|choir)/;

/** Connect the dialog. @param {any} about @param {import('./desk.js').Desk} desk */
export function connectSave(about, desk) {
  const dialog = byId('save');
  const format = el(
    'select',
    { onchange: () => fillDepths(depth, about, format.value) },
    ...about.formats.map(({ name }) =>
      el('option', { value: name, text: name.toUpperCase(), selected: name === about.format }),
    ),
  );
  const depth = el('select');
  const clip = el(
    'select',
    {},
    ...Object.entries(CLIPS).map(([value, text]) => el('option', { value, text })),
  );
  fillDepths(depth, about, about.format);
  const told = el('p', { class: 'note', role: 'status' });
  const settings = () => ({
    format: format.value,
    clip: clip.value,
    ...(depth.disabled ? {} : { bit_depth: depth.value }),
  });
  const export_ = (/** @type {object[]} */ lanes, /** @type {string} */ kind) =>
    render(desk, lanes, kind, settings(), told);
  const choices = [
    [
      'This mix',
      'What you hear: volumes, pans, mutes and solos',
      'primary',
      () => export_(desk.mix(), 'mix'),
    ],
    ['Karaoke', 'All stems but the vocals, as they are', '', () => export_(karaoke(desk), 'karaoke')],
    [
      'All stems as ZIP',
      'The files as they lie in the folder',
      '',
      () => desk.result && save(`api/results/${desk.result.id}/zip`),
    ],
  ];
  const buttons = choices.map(([text, note, kind, action]) =>
    el(
      'button',
      { type: 'button', class: `choice ${kind}`, onclick: action },
      el('b', { text }),
      el('span', { text: note }),
    ),
  );
  dialog.append(
    el(
      'form',
      { method: 'dialog' },
      el('h2', { id: 'save-title', text: 'Save' }),
      el(
        'div',
        { class: 'row' },
        el('label', {}, 'Format ', format),
        el('label', {}, 'Bits ', depth),
        el('label', {}, 'If it would clip ', clip),
      ),
      el('div', { class: 'saves' }, ...buttons),
      told,
      el('div', { class: 'actions' }, el('button', { text: 'Close' })),
    ),
  );
  byId('open-save').addEventListener('click', () => {
    told.textContent = '';
    dialog.showModal();
  });
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
