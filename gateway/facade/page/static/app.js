// The page as a whole: who asks, which models there are, tabs, keys, theme.

import { byId, hideProblem, make, say, showProblem } from "./dom.js";
import { ProblemError, ask, forgetToken, keepToken, token } from "./api.js";
import { buildMeters, forgetModel, meter, watchModel } from "./meters.js";
import { classify, compare } from "./encoders.js";
import { chat, clearChat } from "./chat.js";

const TASKS = { embedding: compare, classification: classify, generation: chat };
const THEMES = ["auto", "light", "dark"];
const tabs = [...document.querySelectorAll('[role="tab"]')];
const forms = new Map([...document.querySelectorAll("form[data-task]")].map((form) => [form.dataset.task, form]));
const needsToken = document.documentElement.dataset.auth === "token";
let running = null;

const current = () => tabs.find((tab) => tab.ariaSelected === "true").getAttribute("aria-controls");

async function readModels() {
  const asksFor = needsToken && !token();
  byId("access").hidden = !asksFor;
  byId("forget").hidden = !token();
  if (asksFor) {
    offer([]);
    setState("wait", "A token is needed");
    byId("token").focus();
    return;
  }
  try {
    const { data } = await ask("/v1/models");
    offer(data);
    setState("good", data.length === 1 ? "1 model" : `${data.length} models`);
  } catch (error) {
    if (!(error instanceof ProblemError)) throw error;
    offer([]);
    setState("bad", "Not available");
    showProblem(error.problem);
    if (error.problem.status === 401) {
      byId("access").hidden = false;
      byId("token").focus();
    }
  }
}

function setState(state, text) {
  byId("state").dataset.state = state;
  byId("state").textContent = text;
}

function offer(models) {
  for (const [task, form] of forms) {
    const select = form.elements.model;
    const names = models.filter((model) => model.task === task).map((model) => model.id);
    const options = names.length ? names : ["none is served"];
    select.replaceChildren(...options.map((name) => make("option", { value: names.length ? name : "" }, name)));
    select.disabled = !names.length;
    form.querySelector("[data-send]").disabled = !names.length;
  }
}

function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.ariaSelected = String(chosen);
    other.tabIndex = chosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  hideProblem();
  forgetModel();
}

async function run(task, form) {
  if (running || form.querySelector("[data-send]").disabled || !form.reportValidity()) return;
  hideProblem();
  running = new AbortController();
  working(form, true);
  const start = performance.now();
  try {
    await TASKS[task](form, running.signal);
    meter("latency", performance.now() - start);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped");
    else if (error instanceof ProblemError) showProblem(error.problem);
    else throw error;
  } finally {
    running = null;
    working(form, false);
  }
}

function working(form, busy) {
  const [send, stop] = [form.querySelector("[data-send]"), form.querySelector("[data-stop]")];
  const held = document.activeElement === (busy ? send : stop);
  send.disabled = busy;
  stop.disabled = !busy;
  if (held) (busy ? stop : send).focus(); // a disabled button would drop the focus
}

function useTheme(theme) {
  if (theme === "auto") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("theme");
  } else {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
  }
  byId("theme").querySelector("span").textContent = theme;
}

function moveByKey(event) {
  const at = tabs.indexOf(event.target);
  const places = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 };
  if (at < 0 || !(event.key in places)) return;
  event.preventDefault();
  const tab = tabs[(places[event.key] + tabs.length) % tabs.length];
  select(tab);
  tab.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run(current(), forms.get(current()));
  }
});
for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", moveByKey);
}
for (const [task, form] of forms) {
  form.elements.model.addEventListener("change", forgetModel);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(task, form);
  });
  form.querySelector("[data-stop]").addEventListener("click", () => running?.abort());
}
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  hideProblem();
  readModels();
});
byId("forget").addEventListener("click", () => {
  forgetToken();
  clearChat();
  readModels();
});
byId("clear").addEventListener("click", () => {
  running?.abort();
  clearChat();
});
byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  useTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});

useTheme(document.documentElement.dataset.theme ?? "auto");
buildMeters();
watchModel(() => forms.get(current()).elements.model.value);
readModels();
