// A connection for TanStack AI that survives lost connections, restarts and expired tokens, and that all tabs of a browser
// share. It has no dependencies and no build step: import it from the server, or copy the files `durable-chat*.js` into one
// folder.
//
//   import { durable } from '/durable-chat.js'
//   const connection = durable({ sendUrl: "/api/chat?id=S" });
//   const { messages, sendMessage } = useChat({ connection, live: true });
//   await connection.stop();
//
// Given an existing connection, it subscribes again whenever the subscription ends:
//
//   const connection = durable(durableStreamConnection({ sendUrl, readUrl }), { sendUrl });
//
// A connection whose response is the answer gets a `stop`:
//
//   const connection = durableRequest(fetchServerSentEvents("/api/chat"));

import { aiSdkTransport } from "./durable-chat-ai-sdk.js";
import { absolute, ask, ChatError, errorOf, Backoff, Guard, newId, pause, withQuery } from "./durable-chat-reads.js";
import { followTogether, lookedAt, watchLooks } from "./durable-chat-tabs.js";

export { aiSdkTransport, ChatError, newId };

const RESTART_MS = 1_000; // the pause before a deleted log is read from its beginning
const TOKEN_ATTEMPTS_MAX = 3; // refused tokens in a row before the error is thrown
const STOP_ATTEMPTS_MAX = 3; // a later attempt could stop the next answer
const SEND_RETRY_MS = 500; // doubled with each attempt, up to the next limit
const SEND_RETRY_MAX_MS = 5_000;
const RETRY_AFTER_MAX_S = 5; // a request with limited attempts fails instead of waiting longer
const ANSWER_MAX_MS = 60_000; // the timeout of a request, which is then sent again with the same key
const SLOW_BYTES_PER_MS = 50; // extends the timeout of a message with files on a slow connection

const AWAY = new Set([0, 502, 503, 504]); // statuses of a send: no response, or no server behind the proxy
const LOST = new Set([400, 410]); // statuses of a read: the offset is invalid
const REFUSED = new Set([401, 403]); // a retry with the same token would fail again
const ENDS = new Set(["RUN_FINISHED", "RUN_ERROR"]);

/**
 * @typedef {object} Options
 * @property {string} sendUrl where turns are posted: `/api/chat?id=S`
 * @property {string} [readUrl] where the session is read. Default: `sendUrl` with `/chat-stream` in place of `/chat`
 * @property {string} [stopUrl] where answers are stopped. Default: `sendUrl` with `/chat-stop` in place of `/chat`
 * @property {string} [initialOffset] where to read from: the offset of the snapshot that was rendered
 * @property {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [headers] for every request. A function is called
 *   before each request, so that it can return a new token
 * @property {RequestCredentials} [credentials] for every request, as in `fetch`
 * @property {typeof fetch} [fetchClient] a replacement for `fetch`
 * @property {string | false} [share] the user's identity, if the headers differ in every request or `fetchClient` adds
 *   them: tabs with the same value share a connection. `false` disables sharing
 * @property {(state: "connecting" | "live" | "reconnecting" | "offline" | "closed") => void} [onState]
 */

/**
 * A connection for `useChat` and `ChatClient`.
 *
 * Given options, it reads and sends itself, and yields each chunk exactly once, also if a subscription is aborted and made
 * again. Given a connection, it keeps that subscribed. With a `sendUrl`, it also sends in its place.
 *
 * @param {Options | {subscribe: Function, send: Function}} of
 * @param {Partial<Options>} [options] only with a connection
 * @returns {{
 *   subscribe: (signal?: AbortSignal) => AsyncGenerator<any>,
 *   send: (messages: any[], data?: any, signal?: AbortSignal, run?: any) => Promise<void>,
 *   stop?: (options?: {runId?: string}) => Promise<string[]>,
 * }} `stop` ends the session's running answer, whichever tab asked for it, and returns the ids of the runs
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

/**
 * A request-scoped connection, such as that of `fetchServerSentEvents`, that can stop answers. Without it, stopping only
 * closes the connection, and the answer goes on.
 *
 * @param {{connect: Function}} of
 * @param {Partial<Options> & {threadId?: string, stopOnAbort?: boolean}} [options] `stopUrl` is `/api/chat-stop` by default.
 *   With `stopOnAbort`, the chat's own `stop()` stops the answer, too; so does an unmount, which looks the same
 * @returns {{connect: Function, stop: (options?: {runId?: string}) => Promise<string[]>}} and what `of` has besides
 */
export function durableRequest(of, options = {}) {
  const { stopUrl = "/api/chat-stop", stopOnAbort = false } = options;
  let { threadId } = options;
  const stop = async ({ runId } = {}) => {
    const url = withQuery(stopUrl, { id: threadId, runId });
    const response = await post(url, { ...options, attempts: STOP_ATTEMPTS_MAX });
    return (await response.json()).stopped;
  };
  async function* connect(messages, data, signal, run) {
    threadId = run?.threadId ?? threadId;
    const leave = () => stop({ runId: run?.runId }).catch(() => {});
    if (stopOnAbort) signal?.addEventListener("abort", leave);
    try {
      for await (const chunk of of.connect(messages, data, signal, run)) {
        if (ENDS.has(chunk.type)) signal?.removeEventListener("abort", leave);
        yield chunk;
      }
    } finally {
      signal?.removeEventListener("abort", leave);
    }
  }
  const others = Object.entries(of).map(([name, value]) => [name, typeof value === "function" ? value.bind(of) : value]);
  return { ...Object.fromEntries(others), connect, stop };
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
 * Posts until there is a response, however long the server is down, or up to `attempts` times. The request must be
 * idempotent, because a response may be lost. Throws ChatError, or the reason of `signal`.
 */
export async function post(url, { signal, attempts = Infinity, ...options }, init = {}) {
  const address = absolute(url).href; // before anything is tried: one that makes no sense is nobody's outage
  for (let attempt = 1; ; attempt++) {
    const outcome = await postOnce(address, { signal, ...options }, init);
    if (!(outcome instanceof ChatError)) return outcome;
    if (signal?.aborted) throw signal.reason;
    const retryAfter = outcome.retryAfter ?? 0;
    if (attempt >= attempts || !AWAY.has(outcome.status)) throw outcome;
    if (attempts < Infinity && retryAfter > RETRY_AFTER_MAX_S) throw outcome;
    await pause(Math.min(SEND_RETRY_MAX_MS, SEND_RETRY_MS * 2 ** (attempt - 1)), { signal, leastMs: retryAfter * 1000 });
  }
}

/** Returns the response, or throws its ChatError. */
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

/** Returns a sibling route: `/api/chat?id=S` and `-stop` give `/api/chat-stop?id=S`. */
function besides(url, suffix) {
  const [path, ...query] = url.split("?");
  return [path.replace(/\/$/, "") + suffix, ...query].join("?");
}

// Subscribing.

function reading(options) {
  const readUrl = options.readUrl ?? besides(options.sendUrl, "-stream");
  let last = { offset: options.initialOffset, waiting: [], runs: new Map(), begunAgain: false };

  /** Each subscription continues after the last one, with the chunks that the last one read but did not yield. */
  return async function* subscribe(signal = new AbortController().signal) {
    const place = (last = { ...last, waiting: [...last.waiting], runs: new Map(last.runs) });
    yield* handOut(place, signal);
    const tokens = new Tokens(options.headers);
    const isFinal = (error) => LOST.has(error.status) || tokens.refuse(error);
    let greeting = [CONNECTED];
    while (!signal.aborted) {
      try {
        for await (const { offset, chunks } of followTogether({ ...options, readUrl, signal, isFinal, offset: place.offset })) {
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

/** ChatClient considers itself connected after the first chunk, and a session may have none. */
const CONNECTED = { type: "CUSTOM", name: "durable-chat.connected", value: {} };

/** Counts a chunk as read before it is yielded, because the consumer then has it. */
function* handOut(place, signal) {
  while (place.waiting.length && !signal.aborted) {
    const chunk = place.waiting.pop();
    if (chunk.type === "RUN_STARTED") place.runs.set(chunk.runId, chunk.threadId);
    if (ENDS.has(chunk.type)) place.runs.delete(chunk.runId);
    yield chunk;
  }
}

/** Yields the chunks of a log that has started over. The runs of the previous log end first. */
function afresh(chunks, runs) {
  const whole = chunks[0]?.type === "MESSAGES_SNAPSHOT" ? chunks : [{ type: "MESSAGES_SNAPSHOT", messages: [] }, ...chunks];
  const gone = [...runs].filter(([runId]) => !chunks.some((chunk) => chunk.runId === runId));
  const metadata = { tanstack: { finishReason: "stop" } };
  return [...whole, ...gone.map(([runId, threadId]) => ({ type: "RUN_FINISHED", runId, threadId, metadata }))];
}

/** Mutable: how many times in a row the server has refused our token. A new token may be accepted. */
class Tokens {
  refusals = 0;

  constructor(headers) {
    const values = Object.values(headers ?? {});
    this.attemptsMax = [headers, ...values].some((value) => typeof value === "function") ? TOKEN_ATTEMPTS_MAX : 1;
  }

  /** Returns whether the error is final. */
  refuse({ status }) {
    return REFUSED.has(status) && (status === 403 || ++this.refusals >= this.attemptsMax);
  }
}

function resubscribing(inner, { onState }) {
  return async function* subscribe(signal) {
    const backoff = new Backoff(onState);
    while (!signal?.aborted) {
      const look = watchLooks(signal); // without a shared connection, a hidden tab closes its own
      try {
        for await (const chunk of inner.subscribe(look.signal)) {
          backoff.succeeded();
          yield chunk;
        }
      } catch (error) {
        if (REFUSED.has(error?.status)) throw error;
      } finally {
        look.leave();
      }
      await lookedAt(signal);
      if (!signal?.aborted) await backoff.pause({ signal });
    }
  };
}
