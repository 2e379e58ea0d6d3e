/** The choice of a file format and its bit depth. */

import { el } from './dom.js';

const DEPTHS = { 16: '16', 24: '24', '32f': '32 float' };

/** Two lists to choose from. */
export class FormatChoice {
  /** @param {any} about what the server told about itself */
  constructor(about) {
    this.about = about;
    const options = about.formats.map(({ name }) =>
      el('option', { value: name, text: name.toUpperCase(), selected: name === about.format }),
    );
    this.format = el('select', { onchange: () => this.#fill() }, ...options);
    this.depth = el('select');
    this.parts = [el('label', {}, 'Format ', this.format), el('label', {}, 'Bits ', this.depth)];
    this.#fill();
  }

  /** What is chosen, as settings of a request. */
  get settings() {
    const depth = this.depth.disabled ? {} : { bit_depth: this.depth.value };
    return { format: this.format.value, ...depth };
  }

  /** Offer the bit depths of the format. */
  #fill() {
    const depths = this.about.formats.find(({ name }) => name === this.format.value).bit_depths;
    const options = depths.map((depth) =>
      el('option', { value: depth, text: DEPTHS[depth], selected: depth === this.about.bit_depth }),
    );
    this.depth.replaceChildren(...options);
    this.depth.disabled = !depths.length;
  }
}
