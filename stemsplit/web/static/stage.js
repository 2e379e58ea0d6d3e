/** The stage of the waveforms: ruler, playhead, loop region, and what the pointer does there. */

import { byId, clock } from './dom.js';
import { colour } from './waveform.js';

const DRAG_PX = 5; // a shorter way is a click
const STEPS_S = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
const LABEL_PX = 70;

/** Ruler, playhead and region of the song that is open. */
export class Stage {
  /** @param {import('./player.js').Player} player @param {import('./view.js').View} view */
  constructor(player, view) {
    this.player = player;
    this.view = view;
    this.lanes = byId('lanes');
    this.stop = new AbortController();
    const options = { signal: this.stop.signal };
    this.lanes.addEventListener('pointerdown', (event) => this.#down(event), options);
    this.lanes.addEventListener('wheel', (event) => this.#wheel(event), { ...options, passive: false });
    byId('ruler').addEventListener('pointerdown', (event) => this.#down(event), options);
    view.addEventListener('change', () => this.draw(), options);
    player.addEventListener('change', () => this.draw(), options);
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(byId('ruler'));
  }

  /** Forget the song. */
  close() {
    this.stop.abort();
    this.watcher.disconnect();
  }

  /** Draw ruler, region and playhead. */
  draw() {
    this.#drawRuler();
    const { left, width } = this.#area();
    const region = byId('region');
    region.hidden = !this.player.loop;
    if (this.player.loop) {
      const [from, to] = this.player.loop.map((frame) => Math.min(1, Math.max(0, this.view.share(frame))));
      region.style.left = `${left + from * width}px`;
      region.style.width = `${Math.max(1, (to - from) * width)}px`;
    }
    this.drawPlayhead();
  }

  /** Draw the playhead only. */
  drawPlayhead() {
    const { left, width } = this.#area();
    const share = this.view.share(this.player.position());
    const head = byId('playhead');
    head.hidden = share < 0 || share > 1;
    head.style.transform = `translateX(${left + share * width}px)`;
  }

  /** Return where the waveforms lie within the stage. */
  #area() {
    const stage = byId('stage').getBoundingClientRect();
    const ruler = byId('ruler').getBoundingClientRect();
    return { left: ruler.left - stage.left, width: Math.max(1, ruler.width), page: ruler.left };
  }

  /** Return the sample under the pointer. @param {PointerEvent | WheelEvent} event */
  #frame(event) {
    const { page, width } = this.#area();
    const share = Math.min(1, Math.max(0, (event.clientX - page) / width));
    return this.view.start + share * this.view.frames;
  }

  #down(event) {
    const target = event.target;
    if (event.button !== 0 || !(target instanceof HTMLCanvasElement) || target.classList.contains('meter'))
      return;
    const began = { x: event.clientX, frame: this.#frame(event) };
    let dragged = false;
    target.setPointerCapture(event.pointerId);
    const move = (moved) => {
      dragged ||= Math.abs(moved.clientX - began.x) > DRAG_PX;
      if (dragged) this.#select(began.frame, this.#frame(moved));
    };
    const end = () => {
      target.removeEventListener('pointermove', move);
      if (!dragged) this.player.seek(began.frame);
      else if (this.player.loop && !this.player.playing) this.player.seek(this.player.loop[0]);
    };
    target.addEventListener('pointermove', move);
    target.addEventListener('pointerup', end, { once: true });
    target.addEventListener('pointercancel', () => target.removeEventListener('pointermove', move), {
      once: true,
    });
  }

  #select(one, other) {
    this.player.setLoop([Math.min(one, other), Math.max(one, other)]);
  }

  #wheel(event) {
    if (event.ctrlKey || event.metaKey) this.view.zoom(Math.exp(-event.deltaY / 200), this.#frame(event));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      this.view.move((event.deltaX || event.deltaY) / this.#area().width);
    } else return;
    event.preventDefault();
  }

  #drawRuler() {
    const canvas = byId('ruler');
    const ratio = devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(canvas.clientWidth * ratio), height: Math.round(24 * ratio) });
    const pen = canvas.getContext('2d');
    const seconds = this.view.frames / this.player.rate;
    const step = STEPS_S.find((one) => (one / seconds) * canvas.clientWidth >= LABEL_PX) ?? 7200;
    const decimals = step < 0.1 ? 2 : step < 1 ? 1 : 0;
    pen.font = `${11 * ratio}px system-ui, sans-serif`;
    pen.textBaseline = 'middle';
    const first = Math.ceil(this.view.start / this.player.rate / step);
    for (let i = first; i * step <= (this.view.start + this.view.frames) / this.player.rate; i++) {
      const x = this.view.share(i * step * this.player.rate) * canvas.width;
      pen.fillStyle = colour(canvas, '--line');
      pen.fillRect(x, 0, ratio, canvas.height);
      pen.fillStyle = colour(canvas, '--faint');
      pen.fillText(clock(i * step, decimals), x + 5 * ratio, canvas.height / 2);
    }
  }
}
