/** The way of one stem from its samples to the sum: volume, balance, mute, and a meter. */

/** Volumes from here on down are silence. */
export const SILENT_DB = -60;
const RAMP_S = 0.012;

/**
 * Change a gain without a click; at once where time doesn't pass.
 * @param {AudioParam} param
 * @param {number} value
 * @param {BaseAudioContext} context
 */
export function glide(param, value, context) {
  if (context.state !== 'running') {
    param.cancelScheduledValues(0);
    param.value = value;
    return;
  }
  const now = context.currentTime;
  param.cancelScheduledValues(now);
  param.setValueAtTime(param.value, now);
  param.linearRampToValueAtTime(value, now + RAMP_S);
}

/**
 * Return the factors of the left and right channel. The nearer channel keeps its level; the server renders the
 * same (`stemsplit/web/mixing.py`).
 * @param {number} db
 * @param {number} pan -1 is left and 1 right
 * @returns {[number, number]}
 */
export function gains(db, pan) {
  const gain = db <= SILENT_DB ? 0 : 10 ** (db / 20);
  const turned = (/** @type {number} */ side) =>
    side >= 1 ? 0 : Math.cos((Math.max(0, side) * Math.PI) / 2);
  return [gain * turned(pan), gain * turned(-pan)];
}

/** A stem with its volume. */
export class Channel {
  /**
   * @param {BaseAudioContext} context
   * @param {{id: string, name: string, channels: number}} file
   * @param {string} side
   * @param {AudioNode} output
   */
  constructor(context, file, side, output) {
    this.context = context;
    this.file = file;
    this.side = side;
    this.db = 0;
    this.pan = 0;
    this.mute = false;
    this.solo = false;
    this.audible = true;
    // mono becomes two equal channels
    this.input = new GainNode(context, { channelCount: 2, channelCountMode: 'explicit' });
    this.left = context.createGain();
    this.right = context.createGain();
    this.meter = context.createAnalyser();
    this.meter.fftSize = 1024;
    const split = context.createChannelSplitter(2);
    const merge = context.createChannelMerger(2);
    this.input.connect(split);
    split.connect(this.left, 0).connect(merge, 0, 0);
    split.connect(this.right, 1).connect(merge, 0, 1);
    merge.connect(output);
    merge.connect(this.meter);
  }

  /** Set the gains. @param {boolean} audible */
  apply(audible) {
    this.audible = audible;
    const [left, right] = audible ? gains(this.db, this.pan) : [0, 0];
    glide(this.left.gain, left, this.context);
    glide(this.right.gain, right, this.context);
  }
}

/**
 * Return the greatest magnitude that a meter hears.
 * @param {AnalyserNode} meter
 */
export function level(meter) {
  const samples = new Float32Array(meter.fftSize);
  meter.getFloatTimeDomainData(samples);
  return samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
}
