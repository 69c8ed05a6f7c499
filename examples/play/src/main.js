// The page: a picture goes in; classes, heat and the maps of all stages come out.
import { Board } from "./board.js";
import { Network, softmax } from "./network.js";
import { drawGrey, drawHeat, drawMap } from "./pictures.js";
import { inverted, readFile, reduced, squared } from "./pixels.js";

const folder = new URL("../", import.meta.url); // docs/play
const element = (id) => document.getElementById(`play-${id}`);
const HEAT_SIDE = 224;
const SHOWN = 5;

const state = { network: null, networks: [], file: null, picture: null, seen: null, chosen: null };

start().catch((error) => say(`The page could not start: ${error.message}`, true));

async function start() {
  const facts = await fetched("networks.json");
  state.networks = facts.networks.map((one) => new Network(one, folder));
  state.network = state.networks[0];
  state.board = new Board(element("board"), () => {
    state.file = null;
    look(state.board.picture());
  });
  fillNetworks();
  fillSamples(facts.samples);
  connect(facts);
  await take(await readSample(facts.samples[0]));
}

async function fetched(name) {
  const answer = await fetch(new URL(name, folder));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.json();
}

async function readSample({ file }) {
  const answer = await fetch(new URL(file, folder));
  if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
  return readFile(await answer.blob());
}

function fillNetworks() {
  for (const { facts } of state.networks) {
    const option = new Option(
      `${facts.name}: ${facts.parameters.toLocaleString("en")} parameters, ` +
        `${(100 * facts.top1).toFixed(1)} % right`,
      facts.name,
    );
    element("network").append(option);
  }
}

function fillSamples(samples) {
  for (const sample of samples) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = sample.label;
    const image = document.createElement("img");
    image.src = new URL(sample.file, folder).href;
    image.alt = `Sample: ${sample.label}`;
    button.append(image);
    button.addEventListener("click", () => attempt(async () => take(await readSample(sample))));
    element("samples").append(button);
  }
}

function connect(facts) {
  element("network").addEventListener("change", (event) => {
    state.network = state.networks.find(({ facts: { name } }) => name === event.target.value);
    look(state.picture);
  });
  element("clear").addEventListener("click", () => {
    state.file = null;
    state.board.clear();
    look(state.board.picture());
  });
  element("brush").addEventListener("input", (event) => (state.board.brush = +event.target.value));
  element("grey").addEventListener("input", (event) => (state.board.grey = +event.target.value));
  element("invert").addEventListener("change", () => {
    if (state.file) return take(state.file);
    state.board.put(inverted(state.picture));
    look(state.board.picture());
  });
  element("file").addEventListener("change", ({ target }) => {
    takeFile(target.files[0]);
    target.value = ""; // the same file can be chosen again
  });
  const drop = element("app");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("play-over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("play-over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("play-over");
    takeFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => takeFile(event.clipboardData?.files[0]));
  element("check").addEventListener("click", () => attempt(() => check(facts)));
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  }
}

function takeFile(file) {
  if (!file) return;
  attempt(async () => {
    const picture = await readFile(file);
    // Clothes on a light background, as in most photos, become light ones on black.
    element("invert").checked = borderIsLight(picture);
    take(picture);
  });
}

function borderIsLight({ width, height, data }) {
  let [sum, count] = [0, 0];
  for (let y = 0; y < height; y++) {
    const step = y === 0 || y === height - 1 ? 1 : Math.max(width - 1, 1);
    for (let x = 0; x < width; x += step, count++) sum += data[y * width + x];
  }
  return sum / count > 127;
}

/** Takes a picture of any size. */
function take(picture) {
  state.file = picture;
  const right = element("invert").checked ? inverted(picture) : picture;
  const small = reduced(squared(right));
  state.board.put(small);
  return look(small);
}

let running = false;
let next = null;

/** Runs the network on a picture; of pictures that come meanwhile, on the last one. */
async function look(picture) {
  state.picture = picture;
  next = picture;
  if (running) return;
  running = true;
  try {
    while (next) {
      const [now, network] = [next, state.network];
      next = null;
      if (!network.loaded) say(`Loading ${network.facts.name} ...`);
      const seen = await network.see(now);
      network.loaded = true;
      if (network !== state.network) {
        next = state.picture;
        continue;
      }
      Object.assign(state, { seen, seenPicture: now, chosen: null });
      show();
    }
  } catch (error) {
    say(`The network failed: ${error.message}`, true);
  } finally {
    running = false;
  }
}

function show() {
  const { seen, network } = state;
  const probabilities = softmax(seen.logits);
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  state.chosen ??= order[0];
  drawGrey(element("input"), state.seenPicture);
  showClasses(order.slice(0, SHOWN), probabilities);
  showHeat();
  showStages();
  element("logits").textContent = network.facts.classes
    .map((name, i) => `${name.padEnd(12)} ${seen.logits[i].toFixed(6).padStart(11)}`)
    .join("\n");
  say(
    `${network.facts.name} sees: ${network.facts.classes[order[0]]}, ` +
      `${percent(probabilities[order[0]])}. ${seen.milliseconds.toFixed(0)} ms in this browser.`,
  );
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showClasses(best, probabilities) {
  const buttons = best.map((i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.class = i;
    button.setAttribute("aria-pressed", String(i === state.chosen));
    button.style.setProperty("--share", probabilities[i]);
    const name = document.createElement("span");
    name.textContent = state.network.facts.classes[i];
    const share = document.createElement("span");
    share.textContent = percent(probabilities[i]);
    button.append(name, share);
    button.addEventListener("click", () => {
      state.chosen = i;
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      showHeat();
    });
    return button;
  });
  element("classes").replaceChildren(...buttons);
}

function showHeat() {
  const name = state.network.facts.classes[state.chosen];
  const { heat } = state.seen;
  const some = drawHeat(element("heat"), state.seenPicture, heat, state.chosen, HEAT_SIDE);
  element("heat").setAttribute("aria-label", `Grad-CAM for ${name}`);
  element("heat-text").textContent = some
    ? `Grad-CAM for “${name}”, from the last map of ${heat.height} x ${heat.width} pixels.`
    : `No part of the picture speaks for “${name}”.`;
}

function showStages() {
  const list = element("stages");
  const { stages } = state.seen;
  while (list.children.length > stages.length) list.lastChild.remove();
  while (list.children.length < stages.length) {
    const figure = document.createElement("figure");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.append(document.createElement("canvas"));
    button.addEventListener("click", () => {
      const large = figure.classList.toggle("play-large");
      button.setAttribute("aria-expanded", String(large));
    });
    figure.append(document.createElement("figcaption"), button);
    list.append(figure);
  }
  stages.forEach((map, i) => {
    const [caption, button] = list.children[i].children;
    const canvas = button.firstChild;
    const size = `${map.height} x ${map.width} pixels, ${map.channels} channels`;
    caption.textContent = `${map.name}: ${size}`;
    button.setAttribute("aria-label", `All channels of ${map.name}, ${size}; enlarge`);
    drawMap(canvas, map);
  });
}

/** Compares the logits of every sample and network with those of onnxruntime in Python. */
async function check({ samples }) {
  const report = [];
  for (const network of state.networks) {
    let largest = 0;
    for (const sample of samples) {
      const { logits } = await network.see(reduced(squared(await readSample(sample))));
      const expected = sample.logits[network.facts.name];
      logits.forEach((x, i) => (largest = Math.max(largest, Math.abs(x - expected[i]))));
    }
    report.push(`${network.facts.name}: largest difference ${largest.toExponential(1)}`);
  }
  element("checked").textContent =
    `${report.join("; ")} (logits of ${samples.length} samples, this browser against Python).`;
}

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("play-wrong", wrong);
}
