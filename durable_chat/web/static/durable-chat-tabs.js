// All tabs of a browser read over one connection. A browser opens at most six HTTP/1.1 connections to a host, and a live
// read keeps one. With a live read for each tab, the sixth tab could not send, and the seventh would not load.
//
// A Web Lock elects the tab that reads `/api/events` for all of them. A BroadcastChannel distributes the events. (A
// SharedWorker could do the same, but Chrome on Android has none, and a page of another origin could not start it.) The
// browser releases the lock of a tab that closes or crashes, and the next tab reads. Each subscription knows its own
// offset. It ignores chunks that it has, and requests missed chunks from the server. A lost message, a frozen tab or a
// change of the reader therefore costs a request, but never a chunk.
//
// Only tabs that send the same headers share: the channel's name is a digest of the address and the headers. Tabs whose
// headers differ in every request do not share, unless `share` identifies the user.

import { Hub } from "./durable-chat-hub.js";
import { absolute, Backoff, BEGUN_AGAIN, ChatError, fetchBatch, follow, headersOf, pause, withQuery } from "./durable-chat-reads.js";

const VERSION = 1; // of the messages between tabs; tabs with different versions do not share
const POLL_MS = 2_000; // how often a tab polls if no tab reads for it
const WAITING_MAX = 500; // queued batches of a subscription; beyond, it requests the chunks from the server later
const HIDDEN_MS = 10_000; // a hidden tab with its own connection closes it after this time

const hubs = new Map(); // the hubs of this page, by key

/** Works like `follow`, over the shared connection of the browser's tabs if possible. */
export async function* followTogether(options) {
  let { offset } = options;
  while (!options.signal.aborted) {
    const hub = await hubOf(options).catch(() => null); // the read reports an error in the headers
    if (!hub) return yield* followAlone({ ...options, offset });
    const place = new Place(new URL(absolute(options.readUrl)).searchParams.get("id"), offset);
    yield* through(hub, place, options);
    if (place.ended || options.signal.aborted) return;
    ({ offset } = place);
  }
}

/** Works like `follow`, but a tab that is hidden for a while closes its connection, and resumes when it is visible. */
export async function* followAlone(options) {
  let { offset } = options;
  while (!options.signal.aborted) {
    const look = watchLooks(options.signal);
    try {
      for await (const batch of follow({ ...options, offset, signal: look.signal })) {
        ({ offset } = batch);
        yield batch;
        if (batch.closed) return;
      }
    } finally {
      look.leave();
    }
    await lookedAt(options.signal);
  }
}

/** Returns a signal that is aborted with another one, and when the page has been hidden for a while. */
export function watchLooks(signal) {
  const controller = new AbortController();
  const over = new AbortController();
  let timer = null;
  const look = () => {
    clearTimeout(timer);
    if (isHidden()) timer = setTimeout(() => controller.abort(), HIDDEN_MS);
  };
  globalThis.document?.addEventListener("visibilitychange", look, { signal: over.signal });
  signal?.addEventListener("abort", () => controller.abort(signal.reason), { signal: over.signal });
  if (signal?.aborted) controller.abort(signal.reason);
  look();
  return { signal: controller.signal, leave: () => (clearTimeout(timer), over.abort()) };
}

/** Waits until the page is visible or the signal is aborted. */
export async function lookedAt(signal) {
  while (isHidden() && !signal?.aborted) await pause(POLL_MS, { signal });
}

const isHidden = () => globalThis.document?.visibilityState === "hidden";

/** Yields the events of one subscription, like `follow`. Also returns when the hub is over. */
async function* through(hub, place, { readUrl, signal, isFinal, onState, ...options }) {
  const backoff = new Backoff(onState);
  backoff.say("connecting");
  place.say = (state) => backoff.say(state);
  const wake = () => place.wake();
  signal.addEventListener("abort", wake);
  hub.join(place);
  try {
    while (!signal.aborted) {
      try {
        if (place.error) throw place.error;
        const queued = place.queue.shift();
        if (!queued && hub.alone) return yield* endedBy(place, followAlone({ readUrl, signal, isFinal, onState, ...options, offset: place.offset }));
        if (!queued && hub.over) return;
        const batch = queued ?? (place.behind ? await catchUp(hub, place, readUrl, { signal, ...options }) : null);
        if (!batch) {
          await place.news();
          continue;
        }
        backoff.succeeded();
        yield batch;
        if (batch.closed) return (place.ended = true), backoff.say("closed");
      } catch (error) {
        if (signal.aborted) return;
        place.error = null;
        if (error instanceof ChatError && isFinal(error)) {
          place.ended = true;
          backoff.say("closed");
          throw error;
        }
        await backoff.pause({ signal, leastMs: (error.retryAfter ?? 0) * 1000 });
        hub.ask();
      }
    }
  } finally {
    signal.removeEventListener("abort", wake);
    hub.leave(place);
  }
}

async function* endedBy(place, reads) {
  yield* reads;
  place.ended = true;
}

/** Requests the chunks that a subscription has missed. */
async function catchUp(hub, place, readUrl, options) {
  const { offset } = place;
  const batch = await fetchBatch(withQuery(readUrl, { offset: offset ?? -1 }), options);
  if (offset !== undefined && offset !== "now" && batch.offset < offset) throw BEGUN_AGAIN;
  place.offset = batch.offset;
  const more = batch.chunks.length > 0; // stops if there are none, so that a lost header or a deleted log causes no endless loop
  place.behind = offset !== undefined && more && !batch.upToDate;
  if (offset === undefined || offset === "now") hub.ask();
  else if (more) place.at(hub.places.get(place.session));
  return batch;
}

/**
 * A subscription. Mutable: `offset`, the position after the batches in `queue`; `behind`, while missed chunks are
 * requested; `covered`, while some tab reads for it; `error`, to be reported; `ended`, once it is over.
 */
class Place {
  queue = [];
  covered = false;
  error = null;
  ended = false;
  say = () => {};
  wake = () => {};

  constructor(session, offset) {
    Object.assign(this, { session, offset, behind: offset === undefined || offset === "now" });
  }

  take({ from, offset, chunks, closed, again }) {
    this.covered = true;
    if (again) this.fail(BEGUN_AGAIN);
    else if (from !== this.offset || this.queue.length >= WAITING_MAX) this.at(offset, closed);
    else if (!this.behind && (offset !== from || closed)) {
      this.offset = offset;
      this.queue.push({ chunks, offset, closed });
    }
    this.wake();
  }

  /** Notes that the session's log has been read up to this offset. */
  at(offset, closed = false) {
    if (offset > this.offset || closed) this.behind = true;
    this.wake();
  }

  fail(error) {
    this.error = error;
    this.covered = false;
    this.wake();
  }

  /** Waits for news. If no tab reads for it, the server is asked after a while. */
  async news() {
    let timer = null;
    const late = await new Promise((resolve) => {
      this.wake = () => resolve(false);
      if (!this.covered) timer = setTimeout(resolve, POLL_MS, true);
    });
    clearTimeout(timer);
    this.wake = () => {};
    if (late && !isHidden()) this.behind = true;
  }
}

/** Returns the hub for these options, or null if the tabs cannot share. */
async function hubOf(options) {
  const { readUrl, headers, fetchClient, share } = options;
  const can = globalThis.document && globalThis.origin !== "null" && globalThis.navigator?.locks && globalThis.BroadcastChannel && globalThis.crypto?.subtle;
  const url = new URL(absolute(readUrl));
  if (!can || share === false || !url.pathname.endsWith("/chat-stream") || !url.searchParams.get("id")) return null;
  if (fetchClient && !share) return null; // it may add credentials or change the address
  const key = await keyOf(options);
  if (!share && key !== (await keyOf(options))) return null;
  if (!hubs.has(key)) {
    const varies = !share && [headers, ...Object.values(headers ?? {})].some((value) => typeof value === "function");
    const isOurs = async () => !varies || (await keyOf(options)) === key;
    hubs.set(key, new Hub(key, { url: eventsUrl(url), isOurs, over: (hub) => hubs.get(key) === hub && hubs.delete(key), options }));
  }
  return hubs.get(key);
}

/** Returns the key that sharing tabs have in common: the address and the headers. */
async function keyOf({ readUrl, headers, credentials = "", share }) {
  const who = share ?? (await headersOf(headers));
  const said = new TextEncoder().encode(JSON.stringify([VERSION, eventsUrl(absolute(readUrl)), credentials, who]));
  const digest = await crypto.subtle.digest("SHA-256", said);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns `/api/events` for `/api/chat-stream?id=S`. */
function eventsUrl(readUrl) {
  const url = new URL(readUrl);
  url.pathname = url.pathname.replace(/chat-stream$/, "events");
  url.searchParams.delete("id");
  return url.href;
}
