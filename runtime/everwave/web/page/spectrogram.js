// A spectrogram that runs from right to left: low tones at the bottom, evenly spaced in mel, as everwave's pictures.
const LOWEST = 30; // Hz
const SPEED = 56; // CSS pixels a second
const MARKS = [100, 300, 1000, 3000, 10000]; // Hz

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (mels) => 700 * (10 ** (mels / 2595) - 1);

export class Spectrogram {
  /** `colours`: [r, g, b] from silence to loud. */
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
    this.canvas.width = this.roll.width = width;
    this.canvas.height = this.roll.height = height;
    this.ink = this.roll.getContext("2d", { alpha: false });
    this.column = this.ink.createImageData(1, height);
    this.clear();
  }

  /** Take colours anew, from silence to loud, and begin with silence. */
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
    const top = mel(analyser.context.sampleRate / 2), bottom = mel(LOWEST);
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
    const height = this.roll.height, data = this.column.data;
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

  /** The loudest of the bins between two fractions of a bin; between bins, a line. */
  level(low, high) {
    const first = Math.ceil(low), last = Math.floor(high);
    if (first <= last) {
      let most = 0;
      for (let i = first; i <= Math.min(last, this.levels.length - 1); i++) most = Math.max(most, this.levels[i]);
      return most;
    }
    const k = Math.floor(low), part = (low + high) / 2 - k;
    return Math.round(this.levels[k] * (1 - part) + this.levels[Math.min(k + 1, this.levels.length - 1)] * part);
  }

  show() {
    const { width, height } = this.roll;
    this.view.drawImage(this.roll, this.at, 0, width - this.at, height, 0, 0, width - this.at, height);
    if (this.at) this.view.drawImage(this.roll, 0, 0, this.at, height, width - this.at, 0, this.at, height);
  }
}

/** Where to write which frequency: [text, part of the height from the top]. */
export function marks(sampleRate) {
  const top = mel(sampleRate / 2), bottom = mel(LOWEST);
  return MARKS.map((f) => [f < 1000 ? `${f}` : `${f / 1000}k`, (top - mel(f)) / (top - bottom)]);
}
