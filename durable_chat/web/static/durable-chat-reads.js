// How a session is read: requests that are given up in time, waits that end, and server-sent events.

const BACKOFF_MIN_MS = 250; // doubled with each attempt
const BACKOFF_MAX_MS = 5_000; // a server that is back is found within this
const OFFLINE_AFTER_ATTEMPTS = 4; // until then it is a hiccup
const SILENCE_MAX_MS = 45_000; // the server pings every 15 s; three missed pings mean that nobody is there
const SETTLED_MS = 1_000; // a response that ends sooner, however cleanly, is not followed by the next one at once

/** A request that failed. `status` is 0 when there was no answer; `said` is the server's sentence; `retryAfter` is in seconds. */
export class ChatError extends Error {
  constructor({ said = null, status = 0, code = "unreachable", retryAfter = null } = {}) {
    super(said ?? (status ? `The server answered with an error (${status}).` : "The server cannot be reached."));
    Object.assign(this, { name: "ChatError", said, status, code, retryAfter });
  }
}

/** Bytes enough for an id nobody guesses; randomUUID exists on secure origins only, and a phone may be on plain http. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Reading.

/**
 * Follows a session from `offset`, or from its beginning, over every cut: yields `{chunks, offset}`, the position after
 * them, and where the server closed the stream `closed`. Ends with that, or when `signal` is aborted. Throws the
 * ChatError for which `isFinal` holds; everything else is tried again.
 */
export async function* follow({ readUrl, offset, signal, isFinal, onState, ...options }) {
  const backoff = new Backoff(onState);
  backoff.say("connecting");
  while (!signal.aborted) {
    const began = performance.now();
    const whole = offset === undefined;
    const once = (whole ? catchUp : readOnce)(withQuery(readUrl, whole ? { offset: -1 } : { offset, live: "sse" }), { signal, ...options });
    let done = false;
    let retryAfter = null;
    try {
      for await (const batch of once) {
        if (offset !== "now" && batch.offset < offset) throw BEGUN_AGAIN;
        backoff.say("live");
        if (batch.offset === undefined) continue;
        backoff.succeeded();
        done = true;
        offset = batch.offset;
        yield batch;
        if (batch.closed) return backoff.say("closed");
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ChatError && isFinal(error)) {
        backoff.say("closed");
        throw error;
      }
      done = false;
      ({ retryAfter } = error);
    }
    if (signal.aborted) return;
    const settled = done && (whole || performance.now() - began >= SETTLED_MS);
    if (!settled) await backoff.pause({ signal, leastMs: (retryAfter ?? 0) * 1000 });
  }
}

// Offsets are compared as text. One that goes back is of another log: this one was deleted.
export const BEGUN_AGAIN = new ChatError({ said: "This chat was deleted.", status: 410, code: "begun_again" });

/** What there is from an offset on, up to what the server gives at once. */
async function* catchUp(url, options) {
  yield await fetchBatch(url, options);
}

export async function fetchBatch(url, options) {
  const guard = new Guard(options.signal, SILENCE_MAX_MS);
  try {
    const response = await ask(url, options, { signal: guard.signal });
    if (!response.ok) throw await errorOf(response);
    const chunks = await response.json();
    const is = (name) => response.headers.get(name) === "true";
    const offset = response.headers.get("Stream-Next-Offset") ?? "-1";
    return { chunks, offset, closed: is("Stream-Closed"), upToDate: is("Stream-Up-To-Date") };
  } finally {
    guard.leave();
  }
}

/**
 * The events of many sessions over one response, to its end: each time what has come, after the server's answer nothing.
 * `sessions` are pairs of an id and an offset.
 */
export async function* readEvents(url, sessions, options) {
  const address = absolute(url);
  for (const [id, offset] of sessions) address.searchParams.append("session", `${offset},${id}`);
  const parser = new EventParser();
  for await (const text of texts(address.href, options, isEventStream)) {
    yield parser.push(text).map(({ name, data }) => ({ name, ...JSON.parse(data) }));
  }
}

/** One page for every address is what some servers answer with where they have no such route. */
function isEventStream(response) {
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new ChatError({ status: 404, code: "no_events" });
}

/**
 * One response, to its end. Yields an empty batch without an offset once the server has answered. Data counts once its
 * control event is there: a cut between the two reads both again, and nothing is doubled.
 */
async function* readOnce(url, options) {
  const parser = new EventParser();
  let chunks = [];
  for await (const text of texts(url, options)) {
    if (text === "") yield {};
    for (const { name, data } of parser.push(text)) {
      if (name === "data") chunks = chunks.concat(JSON.parse(data));
      if (name !== "control") continue;
      const { streamNextOffset, streamClosed } = JSON.parse(data);
      yield { chunks, offset: streamNextOffset, closed: streamClosed === true };
      chunks = [];
    }
  }
}

/** The text of a live response, piece by piece, while the server is not silent for too long. The first piece is empty. */
async function* texts(url, { silenceMaxMs = SILENCE_MAX_MS, ...options }, check = () => {}) {
  const guard = new Guard(options.signal, silenceMaxMs);
  try {
    const response = await ask(url, options, { headers: { Accept: "text/event-stream" }, signal: guard.signal });
    if (!response.ok) throw await errorOf(response);
    check(response);
    yield "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      guard.watch();
      const { done, value } = await reader.read();
      guard.rest(); // how long the chunks take here says nothing of the server
      if (done) return;
      yield value;
    }
  } finally {
    guard.abort();
  }
}

/** Splits server-sent events into events; what is not complete yet waits for the next piece. */
export class EventParser {
  #rest = []; // pieces of a line without its end; joined once, or a long line would cost the square of its length
  #name = "";
  #data = [];

  /** The events that `text` completes, as `{name, data}`. Comments (pings) and unknown fields are skipped. */
  push(text) {
    const events = [];
    const mayEnd = /[\r\n]/.test(text) || this.#rest.at(-1)?.endsWith("\r");
    if (text !== "") this.#rest.push(text);
    if (!mayEnd) return events;
    const lines = this.#rest.join("").split(/\r\n|\n|\r(?!$)/);
    this.#rest = [lines.pop()];
    for (const line of lines) {
      if (line === "") this.#finish(events);
      else this.#field(line);
    }
    return events;
  }

  #finish(events) {
    if (this.#data.length) events.push({ name: this.#name || "message", data: this.#data.join("\n") });
    this.#name = "";
    this.#data = [];
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#name = value;
  }
}

// Requests.

/** `fetch` with the options' headers, which are asked for anew. */
export async function ask(url, { headers, credentials, fetchClient = globalThis.fetch }, init) {
  const given = await headersOf(headers);
  return fetchClient(absolute(url).href, { cache: "no-store", credentials, ...init, headers: { ...given, ...init.headers } });
}

export async function headersOf(headers = {}) {
  const given = typeof headers === "function" ? await headers() : headers;
  const pairs = Symbol.iterator in (given ?? {}) ? [...given] : Object.entries(given ?? {});
  const values = pairs.map(async ([name, value]) => [name, typeof value === "function" ? await value() : value]);
  return Object.fromEntries(await Promise.all(values));
}

/** Makes a ChatError of an answer that is not 2xx. */
export async function errorOf(response) {
  const { status } = response;
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfter = seconds >= 0 ? seconds : null;
  const body = await response.json().catch(() => null);
  const said = typeof body?.error === "string" ? body.error : null;
  const code = typeof body?.code === "string" ? body.code : `http_${status}`;
  return new ChatError({ said, status, code, retryAfter });
}

export const absolute = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);

/** The address with these parameters; relative ones are to the page, so that it works below any path it is mounted at. */
export function withQuery(url, query) {
  const whole = absolute(url);
  for (const [name, value] of Object.entries(query)) if (value != null) whole.searchParams.set(name, value);
  return whole.href;
}

// Waiting.

/** Mutable: the attempts since the last success; the state that was told last. */
export class Backoff {
  #attempts = 0;
  #state = null;

  constructor(onState = () => {}) {
    this.onState = onState;
  }

  say(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.onState(state);
  }

  succeeded() {
    this.#attempts = 0;
    this.say("live");
  }

  async pause(options) {
    const longest = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.#attempts++);
    const offline = globalThis.navigator?.onLine === false || this.#attempts >= OFFLINE_AFTER_ATTEMPTS;
    this.say(offline ? "offline" : "reconnecting");
    await pause(longest * (0.5 + Math.random() / 2), options);
  }
}

/** Waits so long, or until the network is back or somebody looks at the page, but not less than `leastMs`. */
export function pause(ms, { signal, leastMs = 0 } = {}) {
  const over = new AbortController();
  const until = Date.now() + leastMs;
  return new Promise((resolve) => {
    const end = () => (over.abort(), clearTimeout(timer), resolve());
    const wake = () => Date.now() >= until && globalThis.document?.visibilityState !== "hidden" && end();
    const timer = setTimeout(end, Math.max(ms, leastMs));
    for (const name of ["online", "pageshow"]) globalThis.addEventListener?.(name, wake, { signal: over.signal });
    globalThis.document?.addEventListener("visibilitychange", wake, { signal: over.signal });
    signal?.addEventListener("abort", end, { signal: over.signal });
    if (signal?.aborted) end();
  });
}

/** Gives a request up when its signal says so, after too long a silence, or when the browser says that the network is gone. */
export class Guard {
  #controller = new AbortController();
  #left = new AbortController();
  #timer = null;

  constructor(signal, silenceMaxMs) {
    this.silenceMaxMs = silenceMaxMs;
    const follow = () => this.abort(signal.reason);
    signal?.addEventListener("abort", follow, { signal: this.#left.signal });
    globalThis.addEventListener?.("offline", () => this.abort(), { signal: this.#left.signal });
    if (signal?.aborted) follow();
    else this.watch();
  }

  get signal() {
    return this.#controller.signal;
  }

  watch() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.abort(), this.silenceMaxMs);
  }

  rest() {
    clearTimeout(this.#timer);
  }

  /** The request is over; it is not to be watched any more. */
  leave() {
    this.rest();
    this.#left.abort();
  }

  abort(reason) {
    this.leave();
    this.#controller.abort(reason);
  }
}
