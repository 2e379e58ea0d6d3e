/** The list of models to choose from: task, stems, size, licence, score, and whether it is here. */

import { get } from './api.js';
import { el, size, stemName } from './dom.js';

const MOST_SHOWN = 60;

/** A list of models with filters. */
export class Chooser {
  /** @param {string} name of the model that is chosen first @param {() => void} chosen */
  constructor(name, chosen) {
    this.name = name;
    this.chosen = chosen;
    /** @type {any[]} */
    this.all = [];
    const again = () => this.show();
    this.words = el('input', {
      type: 'search',
      placeholder: 'Name, stem or licence',
      'aria-label': 'Filter models',
      autocomplete: 'off',
      oninput: again,
    });
    this.task = el('select', { 'aria-label': 'Task', onchange: again });
    this.here = el('input', { type: 'checkbox', onchange: again });
    this.free = el('input', { type: 'checkbox', onchange: again });
    this.list = el('div', { class: 'models', role: 'radiogroup', 'aria-label': 'Models' });
    this.count = el('p', { class: 'note', role: 'status' });
    this.parts = [
      el(
        'div',
        { class: 'row' },
        this.words,
        this.task,
        el('label', { class: 'check' }, this.here, 'on this machine'),
        el('label', { class: 'check' }, this.free, 'permissive licence'),
      ),
      this.list,
      this.count,
    ];
  }

  /** The model that is chosen, once the list is here. */
  get model() {
    return this.all.find((one) => one.name === this.name);
  }

  /** Ask the server for the models. */
  async load() {
    this.all = (await get('api/models')).models;
    if (!this.model) this.all.unshift(given(this.name));
    const tasks = [...new Set(this.all.map((one) => one.task).filter(Boolean))];
    this.task.hidden = !tasks.length;
    const kept = this.task.value;
    this.task.replaceChildren(
      el('option', { value: '', text: 'all tasks' }),
      ...tasks.map((task) => el('option', { value: task, text: task })),
    );
    this.task.value = kept;
    this.show();
    this.list.querySelector('input:checked')?.closest('label')?.scrollIntoView({ block: 'center' });
  }

  /** Show the models that match the filters; the chosen one always. */
  show() {
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (/** @type {any} */ one) =>
      words.every((/** @type {string} */ word) =>
        `${one.name} ${(one.aliases ?? []).join(' ')} ${one.stems.join(' ')} ${one.license} ${one.kind}`
          .toLowerCase()
          .includes(word),
      ) &&
      (!this.task.value || one.task === this.task.value) &&
      (!this.here.checked || one.here) &&
      (!this.free.checked || one.permissive);
    const found = this.all.filter(matches);
    const shown = found.slice(0, MOST_SHOWN);
    if (this.model && !shown.includes(this.model)) shown.unshift(this.model);
    this.list.replaceChildren(...shown.map((one) => this.#row(one)));
    const more = found.length > MOST_SHOWN ? `; the first ${MOST_SHOWN} are shown` : '';
    this.count.textContent = `${found.length} of ${this.all.length} models${more}`;
  }

  #row(model) {
    const usable = model.runnable !== false;
    const choose = () => {
      this.name = model.name;
      this.chosen();
    };
    const facts = [
      model.stems.map(stemName).join(', '),
      model.kind === 'model' ? '' : model.kind,
      usable ? '' : model.reason,
    ].filter(Boolean);
    const radio = el('input', {
      type: 'radio',
      name: 'model',
      value: model.name,
      checked: model.name === this.name,
      disabled: !usable,
      onchange: choose,
    });
    return el(
      'label',
      { class: 'model', title: [model.license_note, model.note].filter(Boolean).join('\n') || null },
      radio,
      el(
        'span',
        { class: 'model-name' },
        el('b', { text: model.name }),
        el('span', { class: 'note', text: facts.join(' · ') }),
      ),
      modelFacts(model),
    );
  }
}

/** Return score, licence and size of a model. @param {any} model */
function modelFacts(model) {
  const score = model.score === null ? '' : `${model.score.toFixed(2)} dB ${model.metric}`;
  const license = model.license === 'not stated' ? 'licence not stated' : model.license;
  return el(
    'span',
    { class: 'model-facts note' },
    el('span', { text: score }),
    el('span', { class: model.permissive ? '' : 'care', text: license }),
    el('span', { text: model.here ? 'here' : size(model.size) }),
  );
}

/** Return a row for a model that was named on the command line and isn't in the registry. @param {string} name */
function given(name) {
  const facts = { task: null, stems: [], size: 0, license: '', permissive: true, score: null, here: true };
  return { name, kind: 'named on the command line', ...facts };
}
