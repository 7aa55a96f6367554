// Embedding and classification: a batch of texts, and a picture of the answer.

import { byId, make, say } from "./dom.js";
import { ask } from "./api.js";

const linesOf = (form) => form.elements.texts.value.split("\n").map((line) => line.trim()).filter(Boolean);

export async function compare(form, signal) {
  const texts = linesOf(form);
  const answer = await ask("/v1/embeddings", { model: form.elements.model.value, input: texts, encoding_format: "float" }, signal);
  const vectors = answer.data.map((item) => unit(item.embedding));
  const table = make("table", { className: "heat" }, make("caption", { className: "unseen" }, "Cosine similarity of each pair"));
  const numbers = texts.map((_, index) => make("th", { scope: "col" }, `${index + 1}`));
  table.append(make("thead", {}, make("tr", {}, make("td", { className: "corner" }), ...numbers)));
  const body = make("tbody");
  for (const [row, text] of texts.entries()) {
    const cells = vectors.map((other) => heat(dot(vectors[row], other)));
    body.append(make("tr", {}, make("th", { scope: "row", title: text }, `${row + 1}  ${text}`), ...cells));
  }
  table.append(body);
  const tokens = answer.usage.total_tokens; // 0 where the model cannot count them
  const facts = `Cosine similarity of vectors of ${vectors[0].length} numbers${tokens ? `; ${tokens} tokens in all` : ""}.`;
  const frame = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Similarity table" }, table);
  byId("embedding-result").replaceChildren(frame, make("p", { className: "hint" }, facts));
  say(`${texts.length} texts compared`);
}

function heat(value) {
  const cell = make("td", {}, value.toFixed(2));
  cell.style.setProperty("--warmth", `${Math.round(Math.max(0, Math.min(1, value)) * 100)}%`);
  return cell;
}

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

function unit(vector) {
  const length = Math.hypot(...vector) || 1;
  return vector.map((value) => value / length);
}

export async function classify(form, signal) {
  const texts = linesOf(form);
  const answer = await ask("/classify/batch", { model: form.elements.model.value, texts }, signal);
  const found = answer.results.map((result, index) => {
    const list = make("dl");
    const ranked = Object.entries(result.scores).sort((a, b) => b[1] - a[1]);
    for (const [label, score] of ranked) list.append(bar(label, score, label === result.label));
    return make("div", {}, make("h3", {}, texts[index]), list);
  });
  byId("classification-result").replaceChildren(make("div", { className: "bars" }, ...found));
  say(`${texts.length} texts classified`);
}

function bar(label, score, best) {
  const fill = make("span", { className: "fill" });
  fill.style.setProperty("--share", `${(score * 100).toFixed(1)}%`);
  const track = make("span", { className: "track", "aria-hidden": "true" }, fill);
  const value = make("dd", {}, track, make("span", { className: "number" }, score.toFixed(3)));
  return make("div", { className: best ? "bar best" : "bar" }, make("dt", { title: label }, label), value);
}
