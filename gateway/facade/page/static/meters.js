// The live figures: a tile each, with a line of its last values.

import { byId, make } from "./dom.js";
import { ask } from "./api.js";

const KEPT = 40;
const EVERY_MS = 2000;
const SVG = "http://www.w3.org/2000/svg";
const TILES = [
  ["latency", "Latency", "ms"],
  ["first", "First token", "ms"],
  ["speed", "Tokens per second", ""],
  ["batch", "Texts in a batch", ""],
  ["queue", "Wait in the queue", "ms"],
];
const tiles = new Map();

export function buildMeters() {
  for (const [name, title, unit] of TILES) {
    const number = make("span", {}, "–");
    const svg = document.createElementNS(SVG, "svg");
    const line = document.createElementNS(SVG, "polyline");
    svg.setAttribute("class", "spark");
    svg.setAttribute("viewBox", "0 0 100 20");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(line);
    const value = make("dd", { id: `meter-${name}` }, number, make("small", {}, unit && ` ${unit}`));
    byId("meters").append(make("div", { className: "meter" }, make("dt", {}, title), value, svg));
    tiles.set(name, { number, line, values: [] });
  }
}

const shown = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

// A running value changes the number only; a finished one joins the line too.
export function meter(name, value, finished = true) {
  const { number, line, values } = tiles.get(name);
  number.textContent = Number.isFinite(value) ? shown(value) : "–";
  if (!finished || !Number.isFinite(value)) return;
  values.push(value);
  if (values.length > KEPT) values.shift();
  const top = Math.max(...values, Number.MIN_VALUE);
  const step = 100 / Math.max(values.length - 1, 1);
  const points = values.map((each, index) => `${(index * step).toFixed(1)},${(19 - (each / top) * 18).toFixed(1)}`);
  if (points.length === 1) points.push(points[0].replace(/^0\.0/, "100"));
  line.setAttribute("points", points.join(" "));
}

// What another model did says nothing of this one.
export function forgetModel() {
  for (const name of ["batch", "queue"]) {
    const { number, line, values } = tiles.get(name);
    number.textContent = "–";
    values.length = 0;
    line.setAttribute("points", "");
  }
}

// Triton's own figures of the model in view, while the page is looked at.
export function watchModel(model) {
  let busy = false;
  setInterval(async () => {
    if (busy || document.hidden || !model()) return;
    busy = true;
    try {
      const figures = (await ask("/stats")).models[model()];
      meter("batch", figures?.batch_size ?? NaN);
      meter("queue", figures?.queue_ms ?? NaN);
    } catch {
      // A request of the user's own tells what is wrong.
    } finally {
      busy = false;
    }
  }, EVERY_MS);
}
