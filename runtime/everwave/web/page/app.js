// The page: controls on one side, one session at a time on the other.
import { Session, prepare, toJson } from "./player.js";
import { Spectrogram, marks } from "./spectrogram.js";

const $ = (id) => document.getElementById(id);
const outputOf = (id) => document.querySelector(`output[for="${id}"]`);
const CONDITIONS = ["bpm", "density"]; // and what else models have, see addCards
const DARK = [[5, 5, 18], [34, 18, 78], [86, 26, 118], [148, 37, 112], [206, 64, 80], [240, 114, 48], [249, 178, 70], [252, 244, 196]];
const LIGHT = [[255, 250, 240], [250, 222, 178], [247, 184, 128], [232, 126, 98], [196, 70, 100], [140, 40, 112], [82, 26, 100], [30, 14, 52]];
const SETTLE = 250; // ms between two changes that are sent while a slider moves

let models = [];
let limits = {};
let session = null;
let last = null; // the session that a download is of
let style = null; // a seed, or null for the piece's own
const picture = new Spectrogram($("spectrogram"));

// -- what the controls say ----------------------------------------------------------------------------------------

const model = () => models.find(({ name }) => name === $("model").value);
// a seed is text, as numbers here are exact to 2^53 only
const isSeed = (text) => /^\d{1,20}$/.test(text) && BigInt(text) < 2n ** 64n;
const SEEDS = "a whole number from 0 to 18446744073709551615";
const seed = () => (isSeed($("seed").value) ? String(BigInt($("seed").value)) : null);
const random = () => crypto.getRandomValues(new Uint32Array(1))[0];

function wishes() {
  const found = { model: model().name, seed: seed(), truncation: Number($("truncation").value), style };
  for (const name of CONDITIONS) if (!$(name).disabled) found[name] = Number($(name).value);
  return found;
}

function showValues() {
  for (const name of CONDITIONS) {
    const input = $(name);
    outputOf(name).value = input.disabled ? "" : `${Number(input.value)} ${input.dataset.unit}`;
  }
  outputOf("truncation").value = Number($("truncation").value).toFixed(1);
  outputOf("style").value = style === null ? "its own" : style;
  outputOf("glide").value = `${$("glide").value} s`;
  outputOf("volume").value = `${$("volume").value} %`;
  $("style-back").disabled = style === null;
  $("title").textContent = `${model().name} ${seed() ?? ""}`;
}

/** A card for every condition that the page was not written for. */
function addCards() {
  for (const { name } of models.flatMap(({ conditions }) => conditions)) {
    if (CONDITIONS.includes(name)) continue;
    const card = $("bpm").closest(".card").cloneNode(true);
    card.querySelector("label").textContent = name[0].toUpperCase() + name.slice(1);
    for (const element of card.querySelectorAll("[for]")) element.setAttribute("for", name);
    card.querySelector("input").id = name;
    card.querySelector("input").setAttribute("aria-describedby", `${name}-why`);
    card.querySelector("p").id = `${name}-why`;
    $("density").closest(".card").after(card);
    CONDITIONS.push(name);
  }
}

/** Offer what the model has; say why where it lacks something. */
function fitToModel() {
  const { name, conditions, lacks, licence, sample_rate } = model();
  for (const id of CONDITIONS) {
    const input = $(id);
    const condition = conditions.find((c) => c.name === id);
    input.disabled = !condition;
    input.closest(".card").classList.toggle("lacking", !condition);
    $(`${id}-why`).textContent = condition ? `${range(condition).min} to ${range(condition).max} ${unit(condition)}` : `${lacks[id] ?? `${name} lacks it`}.`;
    if (!condition) continue;
    input.dataset.unit = unit(condition);
    Object.assign(input, range(condition));
    input.value = wanted(id) ?? condition.choices[0] ?? condition.mean;
  }
  $("licence").textContent = licence ? `Licence: ${licence}` : "";
  $("marks").replaceChildren(
    ...marks(sample_rate).map(([text, y]) => {
      const mark = document.createElement("span");
      mark.textContent = text;
      mark.style.top = `${100 * y}%`;
      return mark;
    }),
  );
}

const UNITS = { bpm: "bpm", density: "notes/s" };
// whole numbers of beats per minute, tenths of notes per second, inside what the model takes
function range({ low, high }) {
  const perUnit = high - low > 30 ? 1 : 10;
  return { min: Math.ceil(low * perUnit) / perUnit, max: Math.floor(high * perUnit) / perUnit, step: 1 / perUnit };
}

const unit = (condition) => UNITS[condition.name] ?? condition.unit;

// -- links: everything after the #, so that it stays in the browser --------------------------------------------------

const link = () => new URLSearchParams(location.hash.slice(1));
const wanted = (name) => {
  const value = link().get(name);
  return value !== null && value !== "" && Number.isFinite(Number(value)) ? Number(value) : null;
};

/** Set what the link says; returns what of it cannot be done, and what is done instead, or null. */
function readLink() {
  const asked = (name) => link().get(name);
  if (models.some(({ name }) => name === asked("model"))) $("model").value = asked("model");
  $("seed").value = isSeed(asked("seed")) ? asked("seed") : random();
  $("truncation").max = wanted("truncation") > 4 ? 8 : 4;
  $("truncation").value = wanted("truncation") ?? 2;
  style = isSeed(asked("style")) ? String(BigInt(asked("style"))) : null;
  fitToModel();
  showValues();
  const missed = (name, done) => asked(name) !== null && !done && `${name}=${asked(name).slice(0, 30)}`;
  const set = (name) => Number($(name).value) === wanted(name) && !$(name).disabled;
  const notes = [
    missed("model", $("model").value === asked("model")) && `${missed("model")} is not here, ${model().name} is taken`,
    missed("seed", isSeed(asked("seed"))) && `${missed("seed")} is not ${SEEDS}, ${seed()} is taken`,
    missed("style", style !== null) && `${missed("style")} is not ${SEEDS}, the piece's own is taken`,
    ...["truncation", ...CONDITIONS].map((name) => missed(name, set(name)) && `${missed(name)} cannot be set here, ${$(name).disabled ? "it is left out" : `${$(name).value} is taken`}`),
  ].filter(Boolean);
  return notes.length ? `Of this link, ${notes.join("; ")}.` : null;
}

function writeLink() {
  const query = new URLSearchParams(Object.entries(wishes()).filter(([, value]) => value !== null));
  return `${location.origin}${location.pathname}#${query}`;
}

async function share() {
  const text = writeLink();
  history.replaceState(null, "", text);
  $("link").value = text;
  try {
    await navigator.clipboard.writeText(text);
    say("Link copied");
  } catch {
    $("link").hidden = false;
    $("link").select();
    say("Copy the link from the field");
  }
}

// -- playing --------------------------------------------------------------------------------------------------------

function say(text) {
  $("status").textContent = text;
}

function play() {
  stop();
  forget();
  if (seed() === null) return say(`Seed ${$("seed").value || "missing"}: give ${SEEDS}`);
  $("seed").value = seed();
  session = last = new Session({ ...wishes(), sample_rate: model().sample_rate }, Number($("volume").value) / 100);
  const mine = session;
  document.body.classList.add("playing", "heard");
  $("play").setAttribute("aria-label", "Stop");
  say("Starting");
  showValues();
  picture.clear();
  picture.start(mine.analyser);
  mine.addEventListener("progress", () => showProgress(mine));
  mine.addEventListener("changed", () => say("Changing"));
  mine.addEventListener("refused", ({ detail }) => say(detail.message));
  mine.addEventListener("end", ({ detail }) => {
    if (session === mine) session = null;
    picture.stop();
    document.body.classList.remove("playing");
    $("play").setAttribute("aria-label", "Play");
    say(detail ?? "Stopped");
    offerDownload();
  });
}

function stop() {
  session?.stop();
}

function showProgress(mine) {
  $("clock").textContent = clock(mine.played / mine.log.sample_rate);
  const text = mine.pending.length ? "Changing" : "Playing";
  if (["Starting", "Changing", "Playing"].includes($("status").textContent) && $("status").textContent !== text) say(text);
  offerDownload();
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const pad = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
}

let due = null;
let told = -SETTLE; // ms
let waiting = {};
let slowest = 0; // s, the longest glide of what is waiting

/** Tell the stream: now, or so that SETTLE ms lie between two changes. */
function change(controls, glide = 0) {
  if (!session) return;
  Object.assign(waiting, controls);
  slowest = Math.max(slowest, glide);
  due ??= setTimeout(flush, told + SETTLE - performance.now());
}

function flush() {
  told = performance.now();
  session?.set(waiting, slowest);
  forget();
}

/** What is waiting is for the stream that plays, not for the next one. */
function forget() {
  clearTimeout(due);
  [due, waiting, slowest] = [null, {}, 0];
}

function changeStyle(to) {
  style = to;
  change({ style: to }, Number($("glide").value) || 0.01); // null: the piece's own
  showValues();
}

// -- what was heard ---------------------------------------------------------------------------------------------------

function offerDownload() {
  const heard = last?.log ? last.played / last.log.sample_rate : 0;
  const long = heard > limits.generate_seconds;
  $("download").disabled = !heard || long;
  let text = heard ? `What you heard, ${clock(heard)}, sample for sample` : "What you heard, sample for sample";
  if (long) text = `You heard more than the ${clock(limits.generate_seconds)} that a file may last here`;
  if ($("keep-why").textContent !== text) $("keep-why").textContent = text;
}

async function download() {
  say("Making your file");
  try {
    const body = toJson({ model: last.model, log: last.heard() });
    const answer = await fetch("api/generate", { method: "POST", headers: { "content-type": "application/json" }, body });
    if (!answer.ok) throw new Error((await answer.json()).error);
    const file = document.createElement("a");
    file.href = URL.createObjectURL(await answer.blob());
    const [, plain, quoted] = /filename(?:="(.+)"|\*=UTF-8''(.+))/.exec(answer.headers.get("content-disposition"));
    file.download = plain ?? decodeURIComponent(quoted);
    file.click();
    setTimeout(() => URL.revokeObjectURL(file.href), 60_000);
    say("Downloaded");
  } catch (error) {
    say(error.message);
  }
}

// -- begin --------------------------------------------------------------------------------------------------------------

function paint() {
  picture.recolour(matchMedia("(prefers-color-scheme: light)").matches ? LIGHT : DARK);
}

function newPiece() {
  style = null;
  showValues();
  if (session || seed() === null) play(); // which says what is wrong with the seed
}

async function begin() {
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", paint);
  picture.resize();
  paint();
  ({ models, limits } = await (await fetch("api/models")).json());
  $("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  addCards();
  const note = readLink();
  if (note) say(note);

  $("play").addEventListener("click", () => (session ? stop() : play()));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const name of [...CONDITIONS, "truncation"]) {
    $(name).addEventListener("input", () => {
      change({ [name]: Number($(name).value) });
      showValues();
    });
  }
  $("volume").addEventListener("input", () => {
    if (session) session.volume = Number($("volume").value) / 100;
    showValues();
  });
  $("glide").addEventListener("input", showValues);
  $("style").addEventListener("click", () => changeStyle(random()));
  $("style-back").addEventListener("click", () => changeStyle(null));
  $("seed").addEventListener("change", newPiece);
  $("new-seed").addEventListener("click", () => {
    $("seed").value = random();
    newPiece();
  });
  $("model").addEventListener("change", () => {
    fitToModel();
    newPiece();
  });
  $("share").addEventListener("click", share);
  $("download").addEventListener("click", download);
  $("link").addEventListener("focus", () => $("link").select());
  addEventListener("hashchange", () => {
    const playing = session;
    const note = readLink();
    if (playing) play();
    if (note) say(note);
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("#seed, #link, select")) return;
    const name = event.key.toLowerCase() === "s" ? "style" : event.key === " " && !event.target.closest("input, button, a") ? "play" : null;
    const held = event.repeat && (name || (event.key === "Enter" && event.target.closest("button")));
    if (name || held) event.preventDefault();
    if (name && !held) $(name).click(); // a key that is held counts once
  });
  await prepare(model().sample_rate);
  document.body.dataset.ready = "yes";
}

// for the browser's console, and for tests
globalThis.everwave = { session: () => session, last: () => last };

begin().catch((error) => say(`The page could not start: ${error.message}`));
