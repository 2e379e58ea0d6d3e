/** The part of a song that is shown. */

const SHORTEST = 64; // samples

/** A range of samples; it emits `change`. */
export class View extends EventTarget {
  /** @param {number} total length of the song in samples */
  constructor(total) {
    super();
    this.total = Math.max(SHORTEST, total);
    this.start = 0;
    this.frames = this.total;
  }

  /** Show a range. @param {number} start @param {number} frames */
  show(start, frames) {
    this.frames = Math.round(Math.min(this.total, Math.max(SHORTEST, frames)));
    this.start = Math.round(Math.min(this.total - this.frames, Math.max(0, start)));
    this.dispatchEvent(new Event('change'));
  }

  /** Show more or less around a sample. @param {number} factor above 1 shows less @param {number} centre */
  zoom(factor, centre) {
    const frames = this.frames / factor;
    const share = Math.min(1, Math.max(0, (centre - this.start) / this.frames));
    this.show(centre - share * frames, frames);
  }

  /** Move along by a share of what is shown. @param {number} share */
  move(share) {
    this.show(this.start + share * this.frames, this.frames);
  }

  /** Move along if a sample isn't shown. @param {number} frame */
  follow(frame) {
    if (frame < this.start || frame >= this.start + this.frames) this.show(frame, this.frames);
  }

  /** Return where a sample is, 0 being the left edge and 1 the right one. @param {number} frame */
  share(frame) {
    return (frame - this.start) / this.frames;
  }
}
