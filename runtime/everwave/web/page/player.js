// One stream: a WebSocket whose samples go to an AudioWorklet, and whose log tells how to make them again.
import { Queue } from "./queue.js";

const AHEAD = 0.6; // seconds to have ready, as the server begins; doubled when they did not do
const MOST_AHEAD = 8;
const WORKLET = "queue.js";
const NO_WORKLET = 2048; // frames at a time

// Seeds go to 2^64, numbers here are exact to 2^53: whole numbers of 16 digits or more are kept as text.
const fromJson = (text) => JSON.parse(text.replace(/([:[,])(\d{16,})(?=[,}\]])/g, '$1"$2"'));
export const toJson = (value) => JSON.stringify(value).replace(/"(\d{16,})"/g, "$1");

/** Let the browser fetch and compile what play will need. */
export function prepare(sampleRate) {
  return new OfflineAudioContext(2, 1, sampleRate).audioWorklet?.addModule(WORKLET);
}

export class Session extends EventTarget {
  /** `query`: what /api/stream takes. Events: start, progress, changed, refused, end (detail: a message or null). */
  constructor(query, volume) {
    super();
    this.begun = performance.now();
    this.played = 0; // frames
    this.ready = 0;
    this.dry = 0;
    this.ahead = AHEAD;
    this.log = null;
    this.delays = []; // seconds from each change to when it was heard
    this.firstSound = null; // seconds from play to the first sample
    this.pending = [];
    this.asked = [];
    this.early = null; // changes that were asked for before the stream began
    this.open = true;
    const url = new URL("api/stream", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    for (const [name, value] of Object.entries(query)) {
      if (name !== "sample_rate" && value !== null) url.searchParams.set(name, value);
    }
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.hear(fromJson(data)) : this.play(data));
    this.socket.onclose = () => this.end("The connection was lost. Press play to begin again.");

    // made at once, while the browser still knows that someone pressed a button
    this.context = new AudioContext({ sampleRate: query.sample_rate, latencyHint: "interactive" });
    this.loudness = new GainNode(this.context, { gain: volume });
    this.analyser = new AnalyserNode(this.context, { fftSize: 4096, smoothingTimeConstant: 0, minDecibels: -105, maxDecibels: -35 });
    this.loudness.connect(this.context.destination);
    this.waiting = []; // samples that came before the player was there
    this.push = null; // gives samples to the player
    this.context.resume();
    Promise.resolve(this.context.audioWorklet?.addModule(WORKLET)).then(
      () => this.connectPlayer(),
      () => this.end("This browser could not load the player."),
    );
  }

  connectPlayer() {
    if (!this.open) return;
    if (this.context.audioWorklet) {
      this.node = new AudioWorkletNode(this.context, "everwave", { numberOfInputs: 0, outputChannelCount: [2] });
      this.node.port.onmessage = ({ data }) => this.progress(data);
      this.push = (samples) => this.node.port.postMessage(samples, [samples.buffer]);
    } else {
      const queue = new Queue(this.context.sampleRate, (report) => this.progress(report));
      this.node = this.context.createScriptProcessor(NO_WORKLET, 0, 2);
      this.node.onaudioprocess = ({ outputBuffer }) => queue.fill(outputBuffer.getChannelData(0), outputBuffer.getChannelData(1));
      this.push = (samples) => queue.push(samples);
    }
    this.node.connect(this.analyser).connect(this.loudness);
    this.waiting.forEach(this.push);
    this.waiting = [];
  }

  play(data) {
    const samples = new Int16Array(data);
    if (this.push) this.push(samples);
    else this.waiting.push(samples);
  }

  hear(message) {
    if (message.type === "start") {
      this.log = message.log;
      this.model = message.model;
      if (this.early) this.set(this.early.controls, this.early.glide);
    } else if (message.type === "changed") {
      this.log.changes = this.log.changes.filter((change) => change.at < message.from).concat(message.changes);
      const asked = this.asked.shift();
      const at = Math.max(...message.changes.map((change) => change.at), message.from);
      this.pending.push({ at, asked });
    } else if (message.type === "refused") {
      this.asked.shift();
    } else if (message.type === "end") {
      this.end(message.message);
      return;
    }
    this.dispatchEvent(new CustomEvent(message.type, { detail: message }));
  }

  progress({ played, ready, dry }) {
    if (!this.open) return;
    this.played = played;
    this.ready = ready;
    if (this.firstSound === null && played) this.firstSound = (performance.now() - this.begun) / 1000;
    while (this.pending.length && this.pending[0].at < played) {
      const { asked } = this.pending.shift();
      this.delays.push((performance.now() - asked) / 1000);
    }
    const report = { played };
    if (dry > this.dry && this.ahead < MOST_AHEAD) report.ahead = this.ahead = Math.min(2 * this.ahead, MOST_AHEAD);
    this.dry = dry;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(report));
    this.dispatchEvent(new Event("progress"));
  }

  /** Change controls; a style may glide over some seconds. */
  set(controls, glide = 0) {
    if (!this.open) return;
    if (!this.log) {
      this.early = { controls: { ...this.early?.controls, ...controls }, glide: Math.max(this.early?.glide ?? 0, glide) };
      return;
    }
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.asked.push(performance.now());
    this.socket.send(JSON.stringify({ set: controls, glide }));
  }

  set volume(value) {
    this.loudness.gain.setTargetAtTime(value, this.context.currentTime, 0.02);
  }

  /** What was heard so far, for /api/generate. */
  heard() {
    return { ...this.log, frames: this.played, changes: this.log.changes.filter((change) => change.at < this.played) };
  }

  stop() {
    this.end(null);
  }

  end(message) {
    if (!this.open) return;
    this.open = false;
    this.socket.close();
    this.node?.port?.postMessage("stop");
    this.node?.disconnect();
    this.context.close();
    this.dispatchEvent(new CustomEvent("end", { detail: message }));
  }
}
