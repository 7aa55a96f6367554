// Calls to the gateway: JSON, server-sent events, WebSocket. Errors are problems (RFC 9457) with a mend.

const TOKEN = "token";

export const token = () => sessionStorage.getItem(TOKEN);
export const keepToken = (value) => sessionStorage.setItem(TOKEN, value);
export const forgetToken = () => sessionStorage.removeItem(TOKEN);

export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

const AWAY = {
  code: "unreachable",
  title: "The gateway did not answer",
  detail: "",
  mend: "check that it runs, and your network, then try again",
};

async function send(path, body, signal) {
  const headers = { accept: "application/json" };
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(AWAY);
  }
  if (!response.ok) throw new ProblemError(await readProblem(response));
  return response;
}

async function readProblem(response) {
  const problem = await response.json().catch(() => ({}));
  const retry = response.headers.get("retry-after");
  return {
    status: response.status,
    code: problem.code ?? "unknown",
    title: problem.title ?? response.statusText ?? "The request failed",
    detail: problem.detail ?? "",
    field: problem.field,
    mend: problem.mend ?? (retry ? `wait ${retry} s and try again` : ""),
  };
}

export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

// An answer as it comes: objects {text, tokens, end}, whatever the transport.
export async function* chatByEvents(question, signal) {
  const body = { ...question, stream: true, stream_options: { include_usage: true } };
  const response = await send("/v1/chat/completions", body, signal);
  let reason = null;
  for await (const data of events(response)) {
    if (data.error) throw new ProblemError(ofError(data.error));
    const choice = data.choices[0];
    reason = choice?.finish_reason ?? reason;
    if (choice?.delta.content) yield { text: choice.delta.content, tokens: 1 };
    if (data.usage) yield { text: "", tokens: 0, end: { reason, tokens: data.usage.completion_tokens } };
  }
}

const ofError = (error) => ({ code: error.code, title: "The answer broke off", detail: error.message, field: error.param });

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// The token goes as a subprotocol, for scripts cannot set headers here, and a URL would be logged.
export async function* chatBySocket(question, signal) {
  const protocols = ["tritonforge.v1", ...(token() ? [`bearer.${token()}`] : [])];
  const url = new URL("/ws/generate", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, protocols);
  const waiting = [];
  let wake = () => {};
  const push = (item) => (waiting.push(item), wake());
  socket.onopen = () => socket.send(JSON.stringify(question));
  socket.onmessage = (event) => push(JSON.parse(event.data));
  socket.onclose = () => push(null);
  signal.addEventListener("abort", () => push(null));
  try {
    for (;;) {
      while (!waiting.length) await new Promise((resolve) => (wake = resolve));
      const frame = waiting.shift();
      signal.throwIfAborted();
      if (!frame) throw new ProblemError({ ...AWAY, title: "The WebSocket closed" });
      if (frame.error) throw new ProblemError(frame.error);
      if (frame.token) yield { text: frame.token, tokens: frame.token_ids?.length ?? 1 };
      if (frame.is_final) {
        yield { text: "", tokens: 0, end: { reason: frame.finish_reason, tokens: frame.usage.completion_tokens } };
        return;
      }
    }
  } finally {
    socket.close(); // which cancels what still runs
  }
}
