/** The start of the page. */

import { get } from './api.js';
import { Desk } from './desk.js';
import { byId, el } from './dom.js';
import { connectKeys } from './keys.js';
import { Queue } from './queue.js';
import { connectSave } from './save.js';
import { Separate } from './separate.js';
import { Songs } from './songs.js';
import { connectTransport } from './transport.js';

const desk = new Desk();
const songs = new Songs(desk);
const queue = new Queue();

/** Show that there is nothing yet. */
function showEmpty(about) {
  const empty = byId('empty');
  empty.hidden = false;
  empty.replaceChildren(
    el('img', { src: 'icon.svg', alt: '', width: 64, height: 64 }),
    el('h2', { text: 'Drop a song here' }),
    el('p', { text: 'It is separated on this machine. Nothing leaves it.' }),
    el('button', { class: 'primary', text: 'Choose songs…', onclick: () => byId('open-separate').click() }),
    el('p', { class: 'note', text: `Stems are written to ${about.output}` }),
  );
}

/** Show the song of a job that is done, unless one is playing. */
async function showDone(job) {
  await songs.load();
  const found = songs.all.find((song) =>
    song.results.some((/** @type {any} */ one) => one.id === job.result),
  );
  if (!found || desk.player?.playing) return; // it doesn't take away what is being heard
  await desk.open(found.id, job.result);
}

function connectTheme() {
  const root = document.documentElement;
  const chosen = localStorage.getItem('theme');
  if (chosen) root.dataset.theme = chosen;
  byId('theme').addEventListener('click', () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === 'dark'
      : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
    localStorage.setItem('theme', root.dataset.theme);
    repaint();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
}

function repaint() {
  desk.stage?.draw();
  desk.lanes.forEach((lane) => lane.redraw());
}

function connectSide() {
  byId('toggle-songs').addEventListener('click', () => {
    const open = byId('side').classList.toggle('open');
    byId('toggle-songs').setAttribute('aria-expanded', String(open));
  });
}

async function start() {
  connectTheme();
  connectSide();
  connectTransport(desk);
  connectKeys(desk);
  const about = await get('api');
  const separate = new Separate(about, desk, queue);
  connectSave(about, desk);
  queue.addEventListener('done', (event) => showDone(event.detail));
  queue.addEventListener('lost', () => (byId('lost').hidden = false));
  queue.addEventListener('found', () => (byId('lost').hidden = true));
  globalThis.stemsplit = { desk, songs, queue, separate }; // for the console, and for the tests
  await Promise.all([songs.load(), queue.load()]);
  addEventListener('focus', () => songs.load().catch(() => null)); // other programs write stems, too
  const wanted = songs.all.find((song) => song.id === location.hash.slice(1)) ?? songs.all[0];
  if (wanted) await desk.open(wanted.id);
  else showEmpty(about);
}

start().catch((error) => {
  byId('problem').textContent = [error.message, error.hint].filter(Boolean).join(' – ');
  byId('problem').hidden = false;
});
