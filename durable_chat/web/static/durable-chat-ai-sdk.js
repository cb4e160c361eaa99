// A transport for `useChat` of the AI SDK 6 and 7 that survives lost connections, restarts and expired tokens.
//
//   import { aiSdkTransport } from "/durable-chat.js";
//   const loaded = await fetch(`/api/ai-sdk/${id}/messages`).then((response) => response.json());
//   const transport = aiSdkTransport({ loaded });
//   const { messages, sendMessage } = useChat({ id, messages: loaded.messages, transport, resume: true });
//   await transport.stop({ chatId: id });

import { post } from "./durable-chat.js";
import { ask, errorOf, follow, headersOf, newId, withQuery } from "./durable-chat-reads.js";

const STOP_ATTEMPTS_MAX = 3; // a later attempt could stop the next answer
const TOKEN_ATTEMPTS_MAX = 3; // refused tokens in a row before the error is thrown
const RETRIED = new Set([0, 408, 425, 429]); // besides all 5xx

/**
 * @typedef {object} AiSdkOptions
 * @property {string} [api] the routes of the AI SDK. Default: `/api/ai-sdk`
 * @property {{activeRun: {runId: string} | null, offset: string}} [loaded] the response of `/api/ai-sdk/{id}/messages` with
 *   which the page begins. The answer that was running then is resumed, even if it has ended meanwhile
 * @property {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [headers] for every request. A function is called
 *   before each request, so that it can return a new token
 * @property {RequestCredentials} [credentials] for every request, as in `fetch`
 * @property {typeof fetch} [fetchClient] a replacement for `fetch`
 * @property {object} [body] fields to add to each posted body
 * @property {boolean} [stopOnAbort] whether `stop()` of the chat also ends the answer on the server. SDK 7 calls it when the
 *   component is unmounted, too, unless the chat is an object of your own (`useChat({chat})`). Default: false
 * @property {(state: "connecting" | "live" | "reconnecting" | "offline" | "closed") => void} [onState]
 */

/** @param {AiSdkOptions} [options] */
export function aiSdkTransport(options = {}) {
  const { api = "/api/ai-sdk", loaded, stopOnAbort = false } = options;
  const addressOf = (chatId, route) => `${api}-durable/${encodeURIComponent(chatId)}/${route}`;
  let resumes = 0;

  const stop = async ({ chatId, runId }) => {
    const url = withQuery(`${api}/${encodeURIComponent(chatId)}/stop`, { runId });
    const response = await post(url, { ...options, attempts: STOP_ATTEMPTS_MAX });
    return (await response.json()).stopped;
  };

  /** Stops the answer when `signal` is aborted. A newer resume also aborts the one before it; that is not a stop. */
  const watch = (chatId, signal) => {
    if (!stopOnAbort || !signal) return;
    const before = resumes;
    const aborted = () => setTimeout(() => resumes === before && stop({ chatId }).catch(() => {}));
    signal.addEventListener("abort", aborted, { once: true });
  };

  const sendMessages = async ({ chatId, messages, trigger, messageId, abortSignal, headers, body }) => {
    watch(chatId, abortSignal);
    const posted = { ...options.body, ...body, id: chatId, messages, trigger, messageId };
    const more = { ...(await headersOf(headers)), "Content-Type": "application/json", "X-Run-Id": newId() };
    const response = await post(`${api}-durable`, { ...options, signal: abortSignal }, { headers: more, body: JSON.stringify(posted) });
    return chunksOf(await streamOf(response), { ...options, signal: abortSignal });
  };

  const reconnectToStream = async ({ chatId, abortSignal }) => {
    resumes++;
    watch(chatId, abortSignal);
    const running = resumes === 1 && loaded?.activeRun ? { runId: loaded.activeRun.runId, from: loaded.offset } : {};
    const response = await ask(withQuery(addressOf(chatId, "stream"), running), options, { signal: abortSignal });
    if (response.status === 204) return null;
    if (!response.ok) throw await errorOf(response);
    return chunksOf(await streamOf(response), { ...options, signal: abortSignal });
  };

  return { sendMessages, reconnectToStream, stop, resumeStreamIsReplay: true };
}

async function streamOf(response) {
  const { streamUrl } = await response.json();
  return new URL(streamUrl, response.url).href;
}

/** Returns the UI message chunks of a run, each exactly once, however often the connection is lost. */
function chunksOf(readUrl, { signal, ...options }) {
  const cancelled = new AbortController();
  const signals = signal ? AbortSignal.any([signal, cancelled.signal]) : cancelled.signal;
  let refusals = 0;
  const isFinal = ({ status }) => {
    if (status === 401 && typeof options.headers === "function") return ++refusals >= TOKEN_ATTEMPTS_MAX;
    return status < 500 && !RETRIED.has(status);
  };
  const batches = follow({ ...options, readUrl, offset: "-1", signal: signals, isFinal });
  return new ReadableStream({
    async pull(controller) {
      for (;;) {
        const { done, value } = await batches.next();
        if (done && signal?.aborted) return controller.error(signal.reason);
        if (done) return controller.close();
        refusals = 0;
        for (const chunk of value.chunks) controller.enqueue(chunk);
        if (value.chunks.length > 0) return;
      }
    },
    cancel: () => cancelled.abort(),
  });
}
