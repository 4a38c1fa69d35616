// Samples that wait to be played. As an AudioWorklet it plays them in the browser's audio thread; the page imports the
// class for browsers without one, which is all of them where the page comes neither by https nor from this machine.
const REPORT = 4096; // frames between two reports

export class Queue {
  /** `report` is called with {played, ready, dry}: frames, frames, how often nothing was left. */
  constructor(sampleRate, report) {
    this.sampleRate = sampleRate;
    this.report = report;
    this.blocks = []; // Int16Array, interleaved
    this.at = 0; // frames of blocks[0] that are played
    this.ready = 0;
    this.played = 0;
    this.dry = 0;
    this.told = 0; // `played` at the last report
    this.least = sampleRate / 10; // frames to have before playing begins
    this.waiting = true;
  }

  push(samples) {
    this.blocks.push(samples);
    this.ready += samples.length / 2;
  }

  /** The next samples into two Float32Arrays of silence. */
  fill(left, right) {
    if (this.waiting && this.ready < this.least) return;
    const begins = this.played === 0;
    const count = Math.min(left.length, this.ready);
    for (let i = 0; i < count; i++) {
      const samples = this.blocks[0];
      left[i] = samples[2 * this.at] / 32768;
      right[i] = samples[2 * this.at + 1] / 32768;
      if (++this.at * 2 === samples.length) {
        this.blocks.shift();
        this.at = 0;
      }
    }
    this.ready -= count;
    this.played += count;
    this.waiting = count < left.length;
    if (this.waiting) {
      this.least = Math.min(2 * this.least, this.sampleRate);
      this.dry += 1;
    }
    if (begins || this.waiting || this.played - this.told >= REPORT) {
      this.told = this.played;
      this.report({ played: this.played, ready: this.ready, dry: this.dry });
    }
  }
}

if (globalThis.AudioWorkletProcessor) {
  registerProcessor(
    "everwave",
    class extends AudioWorkletProcessor {
      constructor() {
        super();
        const queue = new Queue(sampleRate, (report) => this.port.postMessage(report));
        this.queue = queue;
        this.port.onmessage = ({ data }) => (data === "stop" ? (this.queue = null) : queue.push(data));
      }

      process(inputs, [[left, right]]) {
        this.queue?.fill(left, right);
        return this.queue !== null;
      }
    },
  );
}
