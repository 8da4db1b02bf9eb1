// The page: takes pictures, shows what the network says of them.

import {loadDecoder, PictureProblem} from "./formats.js";
import {loadNetwork} from "./network.js";
import {pixelsOf} from "./pixels.js";

const byId = (id) => document.getElementById(id);
const [files, drop, state, answers] = ["files", "drop", "state", "answers"].map(byId);
const percent = (share) => `${(100 * share).toFixed(0)} %`;

let about, ask;

async function start() {
  about = await (await fetch("./model.json")).json();
  byId("model").textContent = `${about.network} · ${about.model} · ${about.precision}`;
  byId("notice").textContent = about.notice;
  byId("measured").textContent = measured();
  byId("warning").textContent = about.warning ?? "";
  byId("warning").hidden = !about.warning;
  [ask] = await Promise.all([loadNetwork(), loadDecoder()]);
  files.disabled = false;
  state.textContent = "Ready.";
  document.documentElement.dataset.ready = "true";
  // A page that cannot be kept answers all the same.
  await keep().catch((error) => {
    byId("offline").textContent = `Not kept for use without a connection (${error.message}).`;
    document.documentElement.dataset.unkept = "true";
  });
}

function measured() {
  const {images, figures, same} = about.verified;
  const {exported, keras} = figures.auc_macro;
  return `Measured on ${images} validation pictures: macro AUC ${exported.toFixed(3)} `
    + `(${keras.toFixed(3)} before the export), the same answer to ${percent(same)} of them.`;
}

/** Have all that the page consists of kept, so that it opens without a connection. */
async function keep() {
  if (!("serviceWorker" in navigator)) return;
  const {serviceWorker} = navigator;
  const scope = new URL("./", location).href;
  const failed = new Promise((_, fail) => {
    serviceWorker.addEventListener("message", ({data}) => {
      if (data.scope === scope) fail(new Error(data.failed));
    });
  });
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  const compat = loaded.some((url) => url.includes("litert_wasm_compat"));
  const without = compat ? "litert_wasm_internal" : "litert_wasm_compat";
  const registration = await serviceWorker.register(`./sw.js?without=${without}`);
  await Promise.race([serviceWorker.ready, failed]);
  byId("offline").textContent = "From now on it opens without a connection, too.";
  document.documentElement.dataset.kept = "true";
  tellOfNewer(registration);
}

/** A newer export at the same address is kept beside this one, and waits until this is closed. */
function tellOfNewer(registration) {
  const tell = () => {
    if (!registration.waiting) return;
    byId("offline").textContent = "It opens without a connection, too. A newer version is here: "
      + "close this page, wherever it is open, and open it again.";
    document.documentElement.dataset.newer = "true";
  };
  const watch = () => registration.installing?.addEventListener("statechange", tell);
  registration.addEventListener("updatefound", watch);
  watch();
  tell();
}

// Pictures that wait for an answer: they may be chosen while others are computed.
const waiting = [];
let busy = false;

async function judge(chosen) {
  waiting.push(...chosen);
  if (busy) return;
  busy = true;
  state.classList.remove("bad");
  let done = 0;
  while (waiting.length) {
    state.textContent = `Picture ${++done} of ${done + waiting.length - 1} …`;
    answers.prepend(await answer(waiting.shift()));
    await new Promise(requestAnimationFrame);
  }
  busy = false;
  state.textContent = `${done} ${done === 1 ? "picture" : "pictures"} judged on this device.`;
}

async function answer(file) {
  const article = byId("answer").content.cloneNode(true).firstElementChild;
  const find = (selector) => article.querySelector(selector);
  find("h2").textContent = file.name;
  try {
    await refusePhoto(file);
    const pixels = await pixelsOf(file);
    const scores = await ask(pixels);
    draw(find("canvas"), pixels, file.name);
    show(article, scores);
    article.dataset.scores = JSON.stringify(scores);
  } catch (error) {
    const told = error instanceof PictureProblem ? error.message : `no answer (${error.message})`;
    article.classList.add("bad");
    find("canvas").remove();
    find("table").remove();
    find(".verdict").textContent = told;
  }
  return article;
}

/** A network of the demo answers about generated pictures alone, as predict does. */
async function refusePhoto(file) {
  const text = new TextDecoder("latin1").decode(await file.arrayBuffer());
  if (about.generated && !text.includes(about.generated)) {
    throw new PictureProblem("not a generated picture, and this model has seen no other: it knows "
      + "nothing of a photo");
  }
}

function draw(canvas, pixels, name) {
  const image = new ImageData(224, 224);
  for (let i = 0, j = 0; i < pixels.length; i += 3, j += 4) {
    image.data.set([pixels[i], pixels[i + 1], pixels[i + 2], 255], j);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", `${name}, as the network sees it`);
}

function show(article, scores) {
  const best = scores.indexOf(Math.max(...scores));
  const title = (name) => name.replaceAll("_", " ");
  article.querySelector(".verdict").textContent = title(about.classes[best]);
  const rows = about.classes.map((name, index) => {
    const row = document.createElement("tr");
    const [head, bar, value] = ["th", "td", "td"].map((tag) => document.createElement(tag));
    head.scope = "row";
    head.textContent = title(name);
    const meter = document.createElement("meter");
    meter.value = scores[index];
    meter.setAttribute("aria-label", title(name));
    bar.append(meter);
    value.textContent = scores[index].toFixed(3);
    row.append(head, bar, value);
    row.classList.toggle("first", index === best);
    return row;
  });
  article.querySelector("tbody").append(...rows);
  const point = article.querySelector(".point");
  const {threshold, figures} = about.verified;
  if (threshold === null) return;
  const sought = about.verified.sought ?? "melanoma";
  const score = scores[about.classes.indexOf(sought)];
  const reached = score >= threshold;
  const [, figure] = Object.entries(figures).find(([name]) => name.endsWith("_at_threshold"));
  const found = percent(figure.exported);
  const name = title(sought);
  point.classList.toggle("reached", reached);
  point.textContent = `${name[0].toUpperCase()}${name.slice(1)} score ${score.toFixed(3)}: `
    + `${reached ? "at or above" : "below"} ${threshold.toFixed(3)}, which ${found} of the `
    + `${name === "melanoma" ? "melanomas" : `${name} images`} of the validation part reach.`;
}

files.addEventListener("change", () => {
  const chosen = [...files.files];
  files.value = ""; // The same may be chosen again.
  judge(chosen);
});
for (const kind of ["dragenter", "dragover"]) {
  files.addEventListener(kind, () => drop.classList.add("over"));
}
for (const kind of ["dragleave", "drop"]) {
  files.addEventListener(kind, () => drop.classList.remove("over"));
}

start().catch((error) => {
  state.classList.add("bad");
  state.textContent = `The network cannot be loaded: ${error.message}`;
});
