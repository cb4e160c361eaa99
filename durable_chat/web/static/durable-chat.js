// A connection for TanStack AI that lives through cut connections, restarts and the ends of tokens. One file, no
// dependency, no build step: import it from the server, or copy it.
//
//   import { durable } from '/durable-chat.js'
//   const connection = durable({ sendUrl: "/api/chat?id=S" });
//   const { messages, sendMessage } = useChat({ connection, live: true });
//   await connection.stop();
//
// Around a connection that is there already, it subscribes that again whenever it ends:
//
//   const connection = durable(durableStreamConnection({ sendUrl, readUrl }), { sendUrl });

const BACKOFF_MIN_MS = 250; // doubled with each attempt
const BACKOFF_MAX_MS = 5_000; // a server that is back is found within this
const OFFLINE_AFTER_ATTEMPTS = 4; // until then it is a hiccup
const SILENCE_MAX_MS = 45_000; // the server pings every 15 s; three missed pings mean that nobody is there
const SETTLED_MS = 1_000; // a response that ends sooner, however cleanly, is not followed by the next one at once
const RESTART_MS = 1_000; // before a log that was deleted is read from its beginning
const TOKEN_ATTEMPTS_MAX = 3; // tokens refused in a row before the reader is told
const SEND_ATTEMPTS_MAX = 6; // 12 s: a restart is over by then
const STOP_ATTEMPTS_MAX = 3; // later it might stop the next answer
const SEND_RETRY_MS = 500; // doubled with each attempt, up to BACKOFF_MAX_MS
const RETRY_AFTER_MAX_S = 5; // a send that should wait longer fails instead
const ANSWER_MAX_MS = 60_000; // a request that takes longer is given up, and sent again with the same key
const SLOW_BYTES_PER_MS = 50; // of a slow line, which a message with files is given the time for

const AWAY = new Set([0, 502, 503, 504]); // of a send: no answer, or nobody behind the proxy
const LOST = new Set([400, 410]); // of a read: the offset means nothing any more
const REFUSED = new Set([401, 403]); // trying again with the same token would change nothing

/**
 * @typedef {object} Options
 * @property {string} sendUrl where turns are posted: `/api/chat?id=S`
 * @property {string} [readUrl] where the session is read; what is not given is `sendUrl` with `/chat-stream` for `/chat`
 * @property {string} [stopUrl] where answers are stopped; likewise `/chat-stop`
 * @property {string} [initialOffset] where to read from: the offset of the snapshot that was rendered
 * @property {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [headers] of every request; a function is asked
 *   anew for each, so that a token may be a fresh one
 * @property {RequestCredentials} [credentials] of every request, as `fetch` takes them
 * @property {typeof fetch} [fetchClient] in place of `fetch`
 * @property {(state: "connecting" | "live" | "reconnecting" | "offline" | "closed") => void} [onState]
 */

/**
 * A connection for `useChat` and `ChatClient`.
 *
 * Given options it reads and sends by itself: exactly once for each chunk, also where a subscription is aborted amid many
 * and made again. Given a connection it keeps that subscribed; with a `sendUrl` it sends in its place as well.
 *
 * @param {Options | {subscribe: Function, send: Function}} of
 * @param {Partial<Options>} [options] with a connection only
 * @returns {{
 *   subscribe: (signal?: AbortSignal) => AsyncGenerator<any>,
 *   send: (messages: any[], data?: any, signal?: AbortSignal, run?: any) => Promise<void>,
 *   stop?: (options?: {runId?: string}) => Promise<string[]>,
 * }} `stop` ends what the session is being answered, from whichever tab that was asked, and gives the ids of the runs
 */
export function durable(of, options = {}) {
  if (!("subscribe" in of)) return { subscribe: reading(of), ...sending(of) };
  const { joinRun, hydrate } = of;
  return {
    subscribe: resubscribing(of, options),
    ...(options.sendUrl ? sending(options) : { send: of.send.bind(of) }),
    ...(joinRun && { joinRun: joinRun.bind(of) }),
    ...(hydrate && { hydrate: hydrate.bind(of) }),
  };
}

/** A request that failed. `status` is 0 when there was no answer; `said` is the server's sentence; `retryAfter` is in seconds. */
export class ChatError extends Error {
  constructor({ said = null, status = 0, code = "unreachable", retryAfter = null } = {}) {
    super(said ?? (status ? `The server answered with an error (${status}).` : "The server cannot be reached."));
    Object.assign(this, { name: "ChatError", said, status, code, retryAfter });
  }
}

// Sending.

function sending(options) {
  const { sendUrl, stopUrl = besides(sendUrl, "-stop") } = options;
  const send = async (messages, data, signal, run) => {
    const body = { messages, data, ...(run?.clientTools?.length && { tools: run.clientTools }) };
    const headers = { ...run?.headers, "Content-Type": "application/json", "X-Run-Id": run?.runId ?? newId() };
    await post(sendUrl, { ...options, signal }, { headers, body: JSON.stringify(body) });
  };
  const stop = async ({ runId } = {}) => {
    const response = await post(withQuery(stopUrl, { runId }), { ...options, attempts: STOP_ATTEMPTS_MAX });
    return (await response.json()).stopped;
  };
  return { send, stop };
}

/**
 * Posts until there is an answer, a refusal or no hope. What is posted carries its key, or is no harm twice: an answer
 * may be lost on its way. Throws ChatError, or what `signal` was aborted with.
 */
export async function post(url, { signal, attempts = SEND_ATTEMPTS_MAX, ...options }, init = {}) {
  const address = absolute(url).href; // before anything is tried: one that makes no sense is nobody's outage
  for (let attempt = 1; ; attempt++) {
    const outcome = await postOnce(address, { signal, ...options }, init);
    if (!(outcome instanceof ChatError)) return outcome;
    if (signal?.aborted) throw signal.reason;
    const retryAfter = outcome.retryAfter ?? 0;
    if (attempt >= attempts || !AWAY.has(outcome.status) || retryAfter > RETRY_AFTER_MAX_S) throw outcome;
    await pause(Math.min(BACKOFF_MAX_MS, SEND_RETRY_MS * 2 ** (attempt - 1)), { signal, leastMs: retryAfter * 1000 });
  }
}

/** The answer, or the ChatError that it is. */
async function postOnce(url, options, init) {
  const guard = new Guard(options.signal, ANSWER_MAX_MS + (init.body?.length ?? 0) / SLOW_BYTES_PER_MS);
  try {
    const response = await ask(url, options, { ...init, method: "POST", signal: guard.signal });
    return response.ok ? response : await errorOf(response);
  } catch {
    return new ChatError();
  } finally {
    guard.leave();
  }
}

/** Bytes enough for an id nobody guesses; randomUUID exists on secure origins only, and a phone may be on plain http. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Subscribing.

function reading(options) {
  const readUrl = options.readUrl ?? besides(options.sendUrl, "-stream");
  let last = { offset: options.initialOffset, waiting: [], runs: new Map(), begunAgain: false };

  /** Each subscription goes on where the last one is, with what that one has read and not handed out. */
  return async function* subscribe(signal = new AbortController().signal) {
    const place = (last = { ...last, waiting: [...last.waiting], runs: new Map(last.runs) });
    yield* handOut(place, signal);
    const tokens = new Tokens(options.headers);
    const isFinal = (error) => LOST.has(error.status) || tokens.refuse(error);
    let greeting = [CONNECTED];
    while (!signal.aborted) {
      try {
        for await (const { offset, chunks } of follow({ ...options, readUrl, signal, isFinal, offset: place.offset })) {
          const all = place.begunAgain ? afresh(chunks, place.runs) : chunks;
          Object.assign(place, { offset, waiting: (all.length ? all : greeting).toReversed(), begunAgain: false });
          tokens.refusals = 0;
          greeting = [];
          yield* handOut(place, signal);
        }
        return;
      } catch (error) {
        if (!LOST.has(error.status) || place.offset === undefined) throw error;
        Object.assign(place, { offset: undefined, begunAgain: true });
        await pause(RESTART_MS, { signal });
      }
    }
  };
}

/** ChatClient takes the first chunk for the proof that it is connected, and a session may have none to show. */
const CONNECTED = { type: "CUSTOM", name: "durable-chat.connected", value: {} };

/** Counted as read before it is handed out: whoever is handed a chunk has it. */
function* handOut(place, signal) {
  while (place.waiting.length && !signal.aborted) {
    const chunk = place.waiting.pop();
    if (chunk.type === "RUN_STARTED") place.runs.set(chunk.runId, chunk.threadId);
    if (chunk.type === "RUN_FINISHED" || chunk.type === "RUN_ERROR") place.runs.delete(chunk.runId);
    yield chunk;
  }
}

/** The chunks of a log that has begun again, for a client that has another one: the runs that are gone end. */
function afresh(chunks, runs) {
  const whole = chunks[0]?.type === "MESSAGES_SNAPSHOT" ? chunks : [{ type: "MESSAGES_SNAPSHOT", messages: [] }, ...chunks];
  const gone = [...runs].filter(([runId]) => !chunks.some((chunk) => chunk.runId === runId));
  const metadata = { tanstack: { finishReason: "stop" } };
  return [...whole, ...gone.map(([runId, threadId]) => ({ type: "RUN_FINISHED", runId, threadId, metadata }))];
}

/** Mutable: how often in a row the server has refused our token. A fresh one may be what it takes. */
class Tokens {
  refusals = 0;

  constructor(headers) {
    const values = Object.values(headers ?? {});
    this.attemptsMax = [headers, ...values].some((value) => typeof value === "function") ? TOKEN_ATTEMPTS_MAX : 1;
  }

  /** Whether the error is a refusal that is to be taken for good. */
  refuse({ status }) {
    return REFUSED.has(status) && (status === 403 || ++this.refusals >= this.attemptsMax);
  }
}

function resubscribing(inner, { onState }) {
  return async function* subscribe(signal) {
    const backoff = new Backoff(onState);
    while (!signal?.aborted) {
      try {
        for await (const chunk of inner.subscribe(signal)) {
          backoff.succeeded();
          yield chunk;
        }
      } catch (error) {
        if (REFUSED.has(error?.status)) throw error;
      }
      if (!signal?.aborted) await backoff.pause({ signal });
    }
  };
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
const BEGUN_AGAIN = new ChatError({ said: "This chat was deleted.", status: 410, code: "begun_again" });

async function* catchUp(url, options) {
  const guard = new Guard(options.signal, SILENCE_MAX_MS);
  try {
    const response = await ask(url, options, { signal: guard.signal });
    if (!response.ok) throw await errorOf(response);
    const chunks = await response.json();
    yield { chunks, offset: response.headers.get("Stream-Next-Offset") ?? "-1" };
  } finally {
    guard.leave();
  }
}

/** One response, to its end. Yields an empty batch without an offset once the server has answered. */
async function* readOnce(url, { silenceMaxMs = SILENCE_MAX_MS, ...options }) {
  const guard = new Guard(options.signal, silenceMaxMs);
  try {
    const response = await ask(url, options, { headers: { Accept: "text/event-stream" }, signal: guard.signal });
    if (!response.ok) throw await errorOf(response);
    yield {};
    yield* readBatches(response.body, guard);
  } finally {
    guard.abort();
  }
}

/** Data counts once its control event is there: a cut between the two reads both again, and nothing is doubled. */
async function* readBatches(body, guard) {
  const parser = new EventParser();
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let chunks = [];
  for (;;) {
    guard.watch();
    const { done, value } = await reader.read();
    guard.rest(); // how long the chunks take here says nothing of the server
    if (done) return;
    for (const { name, data } of parser.push(value)) {
      if (name === "data") chunks = chunks.concat(JSON.parse(data));
      if (name !== "control") continue;
      const { streamNextOffset, streamClosed } = JSON.parse(data);
      yield { chunks, offset: streamNextOffset, closed: streamClosed === true };
      chunks = [];
    }
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

async function headersOf(headers = {}) {
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

const absolute = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);

/** The address with these parameters; relative ones are to the page, so that it works below any path it is mounted at. */
export function withQuery(url, query) {
  const whole = absolute(url);
  for (const [name, value] of Object.entries(query)) if (value != null) whole.searchParams.set(name, value);
  return whole.href;
}

/** The route beside another: `/api/chat?id=S` and `-stop` give `/api/chat-stop?id=S`. */
function besides(url, suffix) {
  const [path, ...query] = url.split("?");
  return [path.replace(/\/$/, "") + suffix, ...query].join("?");
}

// Waiting.

/** Mutable: the attempts since the last success; the state that was told last. */
class Backoff {
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
function pause(ms, { signal, leastMs = 0 } = {}) {
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
class Guard {
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
