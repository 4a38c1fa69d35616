// Plays 16-bit stereo samples as they come; tells how many it has played, and when it ran dry.
const REPORT = 2048; // frames between two reports

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = []; // Int16Array, interleaved
    this.at = 0; // frames of queue[0] that are played
    this.ready = 0; // frames in the queue
    this.played = 0;
    this.reported = 0;
    this.dry = 0; // how often
    this.least = sampleRate / 10; // frames to have before playing begins
    this.waiting = true;
    this.open = true;
    this.port.onmessage = ({ data }) => {
      if (data === "stop") {
        this.open = false;
        return;
      }
      this.queue.push(data);
      this.ready += data.length / 2;
    };
  }

  process(inputs, [[left, right]]) {
    if (this.waiting && this.ready >= this.least) this.waiting = false;
    const count = this.waiting ? 0 : Math.min(left.length, this.ready);
    for (let i = 0; i < count; i++) {
      const samples = this.queue[0];
      left[i] = samples[2 * this.at] / 32768;
      right[i] = samples[2 * this.at + 1] / 32768;
      if (++this.at * 2 === samples.length) {
        this.queue.shift();
        this.at = 0;
      }
    }
    this.ready -= count;
    this.played += count;
    if (!this.waiting && count < left.length) {
      this.waiting = true;
      this.least = Math.min(2 * this.least, sampleRate);
      this.dry += 1;
      this.report();
    } else if (this.played - this.reported >= REPORT || (this.reported === 0 && this.played)) {
      this.report();
    }
    return this.open;
  }

  report() {
    this.reported = this.played;
    this.port.postMessage({ played: this.played, ready: this.ready, dry: this.dry });
  }
}

registerProcessor("everwave", Player);
