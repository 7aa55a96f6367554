// A conversation, streamed over server-sent events or WebSocket.

import { byId, make, say } from "./dom.js";
import { chatByEvents, chatBySocket } from "./api.js";
import { meter } from "./meters.js";

const turns = [];
const REASONS = { stop: "", length: ", cut at the longest answer", cancelled: ", stopped" };
const counted = (tokens) => `${tokens} token${tokens === 1 ? "" : "s"}`;

export function clearChat() {
  turns.length = 0;
  byId("log").replaceChildren();
  byId("prompt").focus();
}

export async function chat(form, signal) {
  const fields = form.elements;
  const asked = { role: "user", content: fields.prompt.value };
  const system = fields.system.value.trim();
  const question = {
    model: fields.model.value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns, asked],
    temperature: fields.temperature.valueAsNumber,
    max_tokens: fields.max_tokens.valueAsNumber,
  };
  const asking = addTurn("user", "You", asked.content);
  const answer = addTurn("assistant", question.model, "");
  answer.setAttribute("aria-busy", "true"); // read out as a whole once it is there
  fields.prompt.value = "";
  const run = new Run(answer);
  try {
    const stream = fields.transport.value === "websocket" ? chatBySocket : chatByEvents;
    for await (const part of stream(question, signal)) run.take(part);
  } catch (error) {
    if (error.name === "AbortError") run.end = { reason: "cancelled", tokens: run.tokens };
    if (!run.tokens) {
      asking.remove();
      answer.remove();
      if (!fields.prompt.value) fields.prompt.value = asked.content;
      throw error;
    }
    if (!run.end) throw error;
  } finally {
    run.finish();
  }
  if (run.text.data) turns.push(asked, { role: "assistant", content: run.text.data });
  say(`Answer of ${counted(run.end.tokens)}${REASONS[run.end.reason] ?? ""}`);
}

// What is measured of one answer, shown as it comes.
class Run {
  constructor(turn) {
    this.turn = turn;
    this.text = turn.querySelector(".text").appendChild(document.createTextNode(""));
    this.start = performance.now();
    this.first = NaN;
    this.last = this.start;
    this.tokens = 0;
    this.end = null;
    this.drawing = false;
  }

  take(part) {
    if (part.end) {
      this.end = part.end;
      return;
    }
    this.last = performance.now();
    if (!this.tokens) this.first = this.last;
    this.tokens += part.tokens;
    this.text.appendData(part.text);
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (this.end) return;
      meter("first", this.first - this.start, false);
      meter("speed", this.speed, false);
      follow();
    });
  }

  get speed() {
    const tokens = this.end?.tokens ?? this.tokens;
    return tokens > 1 ? ((tokens - 1) * 1000) / (this.last - this.first) : NaN;
  }

  finish() {
    this.turn.removeAttribute("aria-busy");
    if (!this.end) return;
    meter("first", this.first - this.start);
    meter("speed", this.speed);
    const facts = [counted(this.end.tokens)];
    if (this.tokens) facts.push(`first after ${Math.round(this.first - this.start)} ms`);
    if (Number.isFinite(this.speed)) facts.push(`${this.speed.toFixed(0)} a second`);
    this.turn.append(make("p", { className: "hint" }, facts.join(", ") + (REASONS[this.end.reason] ?? "")));
    follow();
  }
}

function addTurn(role, name, text) {
  const turn = make("article", { className: `turn ${role}` }, make("h3", {}, name), make("div", { className: "text" }, text));
  byId("log").append(turn);
  byId("log").scrollTop = byId("log").scrollHeight;
  return turn;
}

// Keep the end in view, unless the reader has scrolled back.
function follow() {
  const log = byId("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 80) log.scrollTop = log.scrollHeight;
}
