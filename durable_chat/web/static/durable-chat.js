// A connection for TanStack AI that lives through cut connections, restarts and the ends of tokens, and that all tabs of
// a browser share. No dependency, no build step: import it from the server, or copy the files `durable-chat*.js`, which
// stand beside each other.
//
//   import { durable } from '/durable-chat.js'
//   const connection = durable({ sendUrl: "/api/chat?id=S" });
//   const { messages, sendMessage } = useChat({ connection, live: true });
//   await connection.stop();
//
// Around a connection that is there already, it subscribes that again whenever it ends:
//
//   const connection = durable(durableStreamConnection({ sendUrl, readUrl }), { sendUrl });

import { absolute, ask, ChatError, errorOf, Backoff, Guard, newId, pause, withQuery } from "./durable-chat-reads.js";
import { followTogether, lookedAt, watchLooks } from "./durable-chat-tabs.js";

export { ChatError, newId };

const RESTART_MS = 1_000; // before a log that was deleted is read from its beginning
const TOKEN_ATTEMPTS_MAX = 3; // tokens refused in a row before the reader is told
const STOP_ATTEMPTS_MAX = 3; // later it might stop the next answer
const SEND_RETRY_MS = 500; // doubled with each attempt, up to the next
const SEND_RETRY_MAX_MS = 5_000;
const RETRY_AFTER_MAX_S = 5; // what has a number of attempts fails instead of waiting longer
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
 * @property {string | false} [share] who the user is, where the headers do not say so (each request has other ones, or
 *   `fetchClient` adds them): tabs that say the same share a connection. `false` shares none
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
 * Posts until there is an answer or a refusal, however long the server is away; with `attempts`, so often. What is posted carries its key, or is no harm twice: an answer
 * may be lost on its way. Throws ChatError, or what `signal` was aborted with.
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

/** The route beside another: `/api/chat?id=S` and `-stop` give `/api/chat-stop?id=S`. */
function besides(url, suffix) {
  const [path, ...query] = url.split("?");
  return [path.replace(/\/$/, "") + suffix, ...query].join("?");
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
      const look = watchLooks(signal); // it shares no connection with other tabs, so that a hidden one lets go
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
