/** Play, position, loop, zoom and volume of the song that is open. */

import { byId, clock, decibels } from './dom.js';

/** Connect the controls to the desk. @param {import('./desk.js').Desk} desk */
export function connectTransport(desk) {
  const withPlayer = (/** @type {(player: any) => void} */ action) => () =>
    desk.player && action(desk.player);
  byId('play').addEventListener('click', () => toggle(desk));
  byId('to-start').addEventListener(
    'click',
    withPlayer((player) => player.seek(player.loop ? player.loop[0] : 0)),
  );
  byId('loop').addEventListener('click', () => toggleLoop(desk));
  byId('zoom-in').addEventListener('click', () => zoom(desk, 2));
  byId('zoom-out').addEventListener('click', () => zoom(desk, 0.5));
  byId('zoom-all').addEventListener('click', () => desk.view?.show(0, desk.view.total));
  byId('position').addEventListener(
    'input',
    withPlayer((player) => player.seek(Number(byId('position').value) * player.rate)),
  );
  byId('master').addEventListener(
    'input',
    withPlayer((player) => player.volume(Number(byId('master').value))),
  );
  byId('master').addEventListener('input', () => {
    const db = Number(byId('master').value);
    byId('master').setAttribute('aria-valuetext', db <= -60 ? 'silent' : decibels(db));
  });
  desk.addEventListener('change', () => show(desk));
  desk.addEventListener('move', () => showPosition(desk));
}

/** Play or pause. @param {import('./desk.js').Desk} desk */
export function toggle(desk) {
  if (!desk.player) return;
  if (desk.player.playing) desk.player.pause();
  else desk.player.play();
}

/** Zoom around the playhead. @param {import('./desk.js').Desk} desk @param {number} factor */
export function zoom(desk, factor) {
  desk.view?.zoom(factor, desk.player.position());
}

/**
 * Loop what is shown, from the playhead on if all is shown; or stop to loop.
 * @param {import('./desk.js').Desk} desk
 */
export function toggleLoop(desk) {
  const { player, view } = desk;
  if (!player) return;
  if (player.loop) player.setLoop(null);
  else if (view.frames < view.total) player.setLoop([view.start, view.start + view.frames]);
  else player.setLoop([player.position(), Math.min(player.frames, player.position() + 4 * player.rate)]);
}

/** Set the start or the end of the loop to the playhead. @param {import('./desk.js').Desk} desk @param {0 | 1} edge */
export function setEdge(desk, edge) {
  const { player } = desk;
  if (!player) return;
  const region = [...(player.loop ?? [0, player.frames])];
  region[edge] = player.position();
  if (region[0] < region[1]) player.setLoop(/** @type {[number, number]} */ (region));
}

function show(desk) {
  const { player } = desk;
  if (!player) return;
  const play = byId('play');
  play.setAttribute('aria-pressed', String(player.playing));
  play.setAttribute('aria-label', player.playing ? 'Pause' : 'Play');
  play.classList.toggle('waiting', player.stalled);
  byId('loop').setAttribute('aria-pressed', String(Boolean(player.loop)));
  const length = player.frames / player.rate;
  byId('length').textContent = clock(length);
  byId('position').max = String(length);
  showPosition(desk);
}

function showPosition({ player }) {
  if (!player) return;
  const seconds = player.position() / player.rate;
  byId('time').textContent = clock(seconds, 1);
  const slider = byId('position');
  if (document.activeElement !== slider || player.playing) slider.value = String(seconds);
  slider.setAttribute('aria-valuetext', `${clock(seconds)} of ${clock(player.frames / player.rate)}`);
}
