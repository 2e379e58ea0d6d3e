/** The queue of separations: it is the server's, so that a page that is loaded again shows it as it is. */

import { get, remove } from './api.js';
import { byId, el, inWords, say, size } from './dom.js';

const POLL_MS = 4000; // to see what other pages and programs do

/** The jobs; it emits `done` with a job that has just been done. */
export class Queue extends EventTarget {
  constructor() {
    super();
    /** @type {Map<string, any>} */
    this.jobs = new Map();
    /** @type {{id: string, source: EventSource} | null} */
    this.followed = null;
    setInterval(() => this.load(), POLL_MS);
  }

  /** Ask the server for all jobs. */
  async load() {
    let found;
    try {
      found = (await get('api/jobs')).jobs;
    } catch {
      this.dispatchEvent(new Event('lost'));
      return;
    }
    this.dispatchEvent(new Event('found'));
    for (const job of found) {
      const before = this.jobs.get(job.id);
      if (before && before.state !== job.state) this.#changed(job);
      if (job.state === 'running' && before?.progress && !job.progress) job.progress = before.progress;
    }
    this.jobs = new Map(found.map((/** @type {any} */ job) => [job.id, job]));
    this.#follow();
    this.show();
  }

  /** Show a job that was just sent. @param {any} job */
  add(job) {
    this.jobs.set(job.id, job);
    this.show();
  }

  #changed(job) {
    const words = { done: 'is separated', failed: 'failed', cancelled: 'is cancelled' };
    if (words[job.state]) say(`${job.name} ${words[job.state]}`);
    if (job.state === 'done') this.dispatchEvent(new CustomEvent('done', { detail: job }));
  }

  /** Follow the events of the job that runs. */
  #follow() {
    const running = [...this.jobs.values()].find((job) => job.state === 'running');
    if (this.followed?.id === running?.id) return;
    this.followed?.source.close();
    this.followed = null;
    if (!running) return;
    const source = new EventSource(`api/jobs/${running.id}/events`);
    this.followed = { id: running.id, source };
    source.addEventListener('message', (message) => this.#take(running.id, JSON.parse(message.data)));
    source.addEventListener('error', () => {
      source.close();
      if (this.followed?.source === source) this.followed = null;
      this.load();
    });
  }

  #take(id, event) {
    const job = this.jobs.get(id);
    if (!job) return;
    if (event.event === 'progress' || event.event === 'download') job.progress = event;
    if (event.event === 'start') job.device = event.device;
    if (event.event === 'end') this.load();
    this.show();
  }

  /** Show the jobs, the newest first. Rows that are there stay, so that they can be clicked while they change. */
  show() {
    const jobs = [...this.jobs.values()].reverse();
    byId('queue-section').hidden = !jobs.length;
    const list = byId('queue');
    for (const row of [...list.children]) if (!this.jobs.has(row.dataset.job)) row.remove();
    jobs.forEach((job, place) => {
      const row = list.querySelector(`[data-job="${job.id}"]`) ?? this.#row(job);
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
      fill(row, job);
    });
  }

  #row(job) {
    const stop = async () => {
      await remove(`api/jobs/${job.id}`).catch(() => null);
      await this.load();
    };
    return el(
      'li',
      { 'data-job': job.id },
      el(
        'div',
        { class: 'job-head' },
        el('span', { class: 'name', text: job.name }),
        el('button', { class: 'quiet small', text: '✕', onclick: stop }),
      ),
      el('span', { class: 'note', text: `${job.settings.model} · ${job.settings.quality}` }),
      el('progress', { max: 1, 'aria-label': `Progress of ${job.name}` }),
      el('span', { class: 'job-state' }),
    );
  }
}

/** Show the state of a job in its row. @param {any} row @param {any} job */
function fill(row, job) {
  const over = ['done', 'failed', 'cancelled'].includes(job.state);
  const title = over ? `Remove ${job.name} from the list` : `Cancel ${job.name}`;
  const { share, text } = stateInWords(job);
  row.dataset.state = job.state;
  const button = row.querySelector('button');
  button.title = title;
  button.setAttribute('aria-label', title);
  const bar = row.querySelector('progress');
  bar.hidden = job.state !== 'running';
  if (share === null) bar.removeAttribute('value');
  else bar.value = share;
  const words = row.querySelector('.job-state');
  words.className = `job-state note${job.state === 'failed' ? ' bad' : ''}`;
  words.textContent = text;
}

/** Return how far a job is, and that in words. @returns {{share: number | null, text: string}} */
function stateInWords(job) {
  const { progress, state } = job;
  if (job.cancelling) return { share: null, text: 'stopping after this chunk…' };
  if (state === 'failed')
    return { share: null, text: [job.error?.message, job.error?.hint].filter(Boolean).join(' – ') };
  if (state === 'waiting') return { share: null, text: 'waiting' };
  if (state !== 'running') return { share: null, text: state };
  if (progress?.event === 'download') {
    const share = progress.total ? progress.done / progress.total : null;
    return {
      share,
      text: `downloading ${size(progress.done)}${progress.total ? ` of ${size(progress.total)}` : ''}`,
    };
  }
  if (!progress?.total_s) return { share: null, text: 'loading the model' };
  const left = progress.eta_s === null ? '' : `, ${inWords(progress.eta_s)} left`;
  return {
    share: progress.done_s / progress.total_s,
    text: `${Math.round((100 * progress.done_s) / progress.total_s)} %${left}`,
  };
}
