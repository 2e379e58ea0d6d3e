/** The keyboard: shortcuts for everything, and the dialog that lists them. */

import { byId, el } from './dom.js';
import { setEdge, toggle, toggleLoop, zoom } from './transport.js';

const STEP_S = 5;
const SMALL_STEP_S = 0.5;

/** Keys, what they do in words, and what they do. @type {[string, string, (desk: any, event: KeyboardEvent) => void][]} */
const KEYS = [
  [' ', 'Play or pause', (desk) => toggle(desk)],
  ['ArrowLeft', `${STEP_S} s back; with Shift ${SMALL_STEP_S} s`, (desk, event) => jump(desk, event, -1)],
  ['ArrowRight', `${STEP_S} s on; with Shift ${SMALL_STEP_S} s`, (desk, event) => jump(desk, event, 1)],
  ['Home', 'To the start', (desk) => desk.player?.seek(0)],
  ['End', 'To the end', (desk) => desk.player?.seek(desk.player.frames - 1)],
  ['l', 'Loop on or off', (desk) => toggleLoop(desk)],
  ['[', 'Loop from here', (desk) => setEdge(desk, 0)],
  [']', 'Loop up to here', (desk) => setEdge(desk, 1)],
  ['+', 'Zoom in', (desk) => zoom(desk, 2)],
  ['-', 'Zoom out', (desk) => zoom(desk, 0.5)],
  ['0', 'Show the whole song', (desk) => desk.view?.show(0, desk.view.total)],
  [
    'o',
    'Original, or back to the mix',
    (desk) => desk.listen(desk.player?.heard === 'original' ? 'a' : 'original'),
  ],
  ['b', 'Result B, or back to A', (desk) => desk.listen(desk.player?.heard === 'b' ? 'a' : 'b')],
  [
    'd',
    'Difference, or back to A',
    (desk) => desk.listen(desk.player?.heard === 'difference' ? 'a' : 'difference'),
  ],
  ['1 … 9', 'Solo a stem; with Shift mute it', () => {}],
  ['s', 'Save', (desk) => desk.result && byId('open-save').click()],
  ['n', 'Separate songs', () => byId('open-separate').click()],
  ['?', 'These shortcuts', () => byId('open-help').click()],
];

/** Connect the keyboard to the desk. @param {import('./desk.js').Desk} desk */
export function connectKeys(desk) {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    if (isTaken(event)) return;
    const digit = /^Digit([1-9])$/.exec(event.code);
    const found =
      KEYS.find(([key]) => key === event.key) ??
      (event.key === '=' ? KEYS.find(([key]) => key === '+') : null);
    if (digit) switchLane(desk, Number(digit[1]) - 1, event.shiftKey);
    else if (found) found[2](desk, event);
    else return;
    event.preventDefault();
  });
  byId('open-help').addEventListener('click', () => showHelp());
}

/** Return whether the element that has the focus needs this key itself. @param {KeyboardEvent} event */
function isTaken(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.matches('input[type=search], input[type=text], textarea')) return true;
  if (target.matches('select')) return event.key !== ' ' && event.key.length !== 1 ? true : event.key === ' ';
  if (target.matches('input[type=range], input[type=radio]')) return /^(Arrow|Home|End|Page)/.test(event.key);
  return event.key === ' ' && target.matches('button, input, a, summary');
}

function jump({ player }, event, direction) {
  player?.seek(player.position() + direction * (event.shiftKey ? SMALL_STEP_S : STEP_S) * player.rate);
}

function switchLane(desk, index, muted) {
  const lane = desk.lanes[index];
  if (lane) lane.set(muted ? { mute: !lane.channel.mute } : { solo: !lane.channel.solo });
}

function showHelp() {
  const names = { ' ': 'Space', ArrowLeft: '←', ArrowRight: '→' };
  const rows = KEYS.map(([key, text]) =>
    el('tr', {}, el('td', {}, el('kbd', { text: names[key] ?? key })), el('td', { text })),
  );
  const more = 'Click a waveform to go there, drag over it to loop a region. Ctrl and the wheel zoom.';
  byId('help').replaceChildren(
    el(
      'form',
      { method: 'dialog' },
      el('h2', { id: 'help-title', text: 'Keyboard' }),
      el('table', { class: 'keys-table' }, el('tbody', {}, ...rows)),
      el('p', { class: 'note', text: more }),
      el('div', { class: 'actions' }, el('button', { class: 'primary', text: 'Close' })),
    ),
  );
  byId('help').showModal();
}
