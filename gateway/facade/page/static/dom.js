// Small helpers to make and find elements. Text is always set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// For screen readers: said once, politely.
export function say(text) {
  byId("said").textContent = text;
}

export function showProblem(problem) {
  const box = byId("problem");
  const where = problem.field ? `, field ${problem.field}` : "";
  box.replaceChildren(
    make("p", {}, make("strong", {}, problem.title), problem.detail ? `: ${problem.detail}` : ""),
    ...(problem.mend ? [make("p", {}, `What helps: ${problem.mend}.`)] : []),
    make("p", { className: "hint" }, `${problem.status ? `Status ${problem.status}, code` : "Code"} ${problem.code}${where}`),
  );
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" });
}

export function hideProblem() {
  byId("problem").hidden = true;
}
