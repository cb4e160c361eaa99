// Reads a session: requests with timeouts, waits, and server-sent events.

const BACKOFF_MIN_MS = 250; // doubled with each attempt
const BACKOFF_MAX_MS = 5_000; // the maximum delay after a server is back
const OFFLINE_AFTER_ATTEMPTS = 4; // fewer failures are not reported as offline
const SILENCE_MAX_MS = 45_000; // the server pings every 15 s; after three missed pings the connection is dead
const SETTLED_MS = 1_000; // after a shorter response, the next request waits, also if it ended cleanly

/** A failed request. `status` is 0 without a response; `said` is the server's message; `retryAfter` is in seconds. */
export class ChatError extends Error {
  constructor({ said = null, status = 0, code = "unreachable", retryAfter = null } = {}) {
    super(said ?? (status ? `The server answered with an error (${status}).` : "The server cannot be reached."));
    Object.assign(this, { name: "ChatError", said, status, code, retryAfter });
  }
}

/** Returns a random id that cannot be guessed. randomUUID requires a secure origin, and a phone may use plain http. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Reading.

/**
 * Follows a session from `offset`, or from its beginning, and reconnects after every lost connection. Yields `{chunks,
 * offset}` with the position after the chunks, and `closed` if the server closed the stream. Ends then, or when `signal`
 * is aborted. Throws a ChatError if `isFinal` is true for it; other errors are retried.
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

// Offsets are compared as text. A smaller offset belongs to another log, because this one was deleted.
export const BEGUN_AGAIN = new ChatError({ said: "This chat was deleted.", status: 410, code: "begun_again" });

/** Reads what follows an offset, as much as the server returns in one response. */
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
 * Yields the events of many sessions over one response, as they arrive. The first array is empty and means that the
 * server has responded. `sessions` are pairs of an id and an offset. With `posts`, they are in the body.
 */
export async function* readEvents(url, sessions, { posts, ...options }) {
  const address = absolute(url);
  const named = new URLSearchParams([...sessions].map(([id, offset]) => ["session", `${offset},${id}`]));
  if (!posts) for (const [name, value] of named) address.searchParams.append(name, value);
  const request = posts ? { method: "POST", body: named } : {};
  const parser = new EventParser();
  for await (const text of texts(address.href, { ...options, request }, isEventStream)) {
    yield parser.push(text).map(({ name, data }) => ({ name, ...JSON.parse(data) }));
  }
}

/** Detects a missing route: some servers respond to every unknown address with the same page. */
function isEventStream(response) {
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new ChatError({ status: 404, code: "no_events" });
}

/**
 * Reads one response to its end. Yields an empty batch without an offset once the server has responded. Data counts only
 * with its control event: if the connection is lost between the two, both are read again and nothing is duplicated.
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

/** Yields the text of a live response in pieces, until the server is silent for too long. The first piece is empty. */
async function* texts(url, { silenceMaxMs = SILENCE_MAX_MS, request = {}, ...options }, check = () => {}) {
  const guard = new Guard(options.signal, silenceMaxMs);
  try {
    const response = await ask(url, options, { ...request, headers: { Accept: "text/event-stream" }, signal: guard.signal });
    if (!response.ok) throw await errorOf(response);
    check(response);
    yield "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      guard.watch();
      const { done, value } = await reader.read();
      guard.rest(); // the time that the consumer takes does not count as silence of the server
      if (done) return;
      yield value;
    }
  } finally {
    guard.abort();
  }
}

/** Splits a text of server-sent events into events. An incomplete event waits for the next piece. */
export class EventParser {
  #rest = []; // pieces of an incomplete line; joined only once, or a long line would take quadratic time
  #name = "";
  #data = [];

  /** Returns the events that `text` completes, as `{name, data}`. Comments (pings) and unknown fields are skipped. */
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

/** Calls `fetch` with the headers of the options. A header function is called for each request. */
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

/** Returns a ChatError for a response that is not 2xx. */
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

/** Returns the address with these parameters. Relative addresses are relative to the page, so any mount point works. */
export function withQuery(url, query) {
  const whole = absolute(url);
  for (const [name, value] of Object.entries(query)) if (value != null) whole.searchParams.set(name, value);
  return whole.href;
}

// Waiting.

/** Mutable: the attempts since the last success; the last reported state. */
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

/** Waits for the delay, or until the network is back or the page becomes visible, but at least `leastMs`. */
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

/** Aborts a request on its signal, after too long a silence, or when the browser goes offline. */
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

  /** Stops watching the finished request. */
  leave() {
    this.rest();
    this.#left.abort();
  }

  abort(reason) {
    this.leave();
    this.#controller.abort(reason);
  }
}
