// A spectrogram that runs from right to left: low tones at the bottom, linear up to some BEND and then logarithmic.
const LOWEST = 30; // Hz
const BEND = 250; // Hz; a mel scale has 700, which leaves little room for a bass line
const SPEED = 56; // CSS pixels a second
const MARKS = [100, 300, 1000, 3000, 10000]; // Hz

const pitch = (hertz) => Math.log(1 + hertz / BEND);
const hertz = (pitch) => BEND * (Math.exp(pitch) - 1);

export class Spectrogram {
  constructor(canvas) {
    this.canvas = canvas;
    this.view = canvas.getContext("2d", { alpha: false });
    this.roll = document.createElement("canvas"); // what was seen last, one pixel column per step, going round
    this.at = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  resize() {
    const scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * scale));
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.scale = scale;
    const before = document.createElement("canvas");
    Object.assign(before, { width: this.canvas.width, height: this.canvas.height });
    before.getContext("2d").drawImage(this.canvas, 0, 0);
    this.canvas.width = this.roll.width = width;
    this.canvas.height = this.roll.height = height;
    this.ink = this.roll.getContext("2d", { alpha: false });
    this.column = this.ink.createImageData(1, height);
    this.at = 0;
    this.ink.drawImage(before, 0, 0, width, height);
    this.show();
  }

  /** Take colours anew, from silence to loud ([r, g, b] each), and begin with silence. */
  recolour(colours) {
    this.colours = new Uint8Array(3 * 256);
    for (let i = 0; i < 256; i++) {
      const x = (i / 255) * (colours.length - 1);
      const k = Math.min(Math.floor(x), colours.length - 2);
      for (let c = 0; c < 3; c++) this.colours[3 * i + c] = colours[k][c] + (x - k) * (colours[k + 1][c] - colours[k][c]);
    }
    this.clear();
  }

  clear() {
    if (!this.ink || !this.colours) return;
    this.ink.fillStyle = `rgb(${this.colours.slice(0, 3).join()})`;
    this.ink.fillRect(0, 0, this.roll.width, this.roll.height);
    this.show();
  }

  start(analyser) {
    this.stop();
    this.analyser = analyser;
    this.levels = new Uint8Array(analyser.frequencyBinCount);
    const top = pitch(analyser.context.sampleRate / 2);
    const bottom = pitch(LOWEST);
    const bin = analyser.context.sampleRate / analyser.fftSize;
    this.bins = (height) => Array.from({ length: height + 1 }, (_, y) => hertz(top + ((bottom - top) * y) / height) / bin);
    this.time = performance.now();
    const step = (now) => {
      this.frame = requestAnimationFrame(step);
      const pixels = Math.floor(((now - this.time) / 1000) * SPEED * this.scale);
      if (pixels < (this.still.matches ? SPEED : 1)) return;
      this.time += (pixels / SPEED / this.scale) * 1000;
      this.draw(Math.min(pixels, this.roll.width));
      this.show();
    };
    this.frame = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this.frame);
  }

  draw(pixels) {
    const height = this.roll.height;
    const data = this.column.data;
    if (this.edges?.length !== height + 1) this.edges = this.bins(height);
    this.analyser.getByteFrequencyData(this.levels);
    for (let y = 0; y < height; y++) {
      const level = this.level(this.edges[y + 1], this.edges[y]);
      for (let c = 0; c < 3; c++) data[4 * y + c] = this.colours[3 * level + c];
      data[4 * y + 3] = 255;
    }
    for (let i = 0; i < pixels; i++) {
      this.ink.putImageData(this.column, this.at, 0);
      this.at = (this.at + 1) % this.roll.width;
    }
  }

  /** The loudest level between two fractions of a bin. */
  level(low, high) {
    let most = Math.max(this.between(low), this.between(high));
    for (let i = Math.ceil(low); i <= high && i < this.levels.length; i++) most = Math.max(most, this.levels[i]);
    return Math.round(most);
  }

  between(x) {
    const k = Math.min(Math.floor(x), this.levels.length - 2);
    return this.levels[k] + (x - k) * (this.levels[k + 1] - this.levels[k]);
  }

  show() {
    const { width, height } = this.roll;
    this.view.drawImage(this.roll, this.at, 0, width - this.at, height, 0, 0, width - this.at, height);
    if (this.at) this.view.drawImage(this.roll, 0, 0, this.at, height, width - this.at, 0, this.at, height);
  }
}

/** Where to write which frequency: [text, part of the height from the top]. */
export function marks(sampleRate) {
  const top = pitch(sampleRate / 2);
  const bottom = pitch(LOWEST);
  return MARKS.map((f) => [f < 1000 ? `${f}` : `${f / 1000}k`, (top - pitch(f)) / (top - bottom)]);
}
