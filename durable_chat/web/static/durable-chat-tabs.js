// Tabs of one browser read over one connection. HTTP/1.1 has six for a host, a live read holds one for good, and what
// is left must send: with a read for each tab the sixth cannot send, and the seventh does not load.
//
// A Web Lock elects the tab that reads, for all of them, `/api/events`; a BroadcastChannel hands on what comes. (A
// SharedWorker would do the same, but Chrome on Android has none, and no page of another origin could start it.) The
// browser frees the lock of a tab that is closed or crashes, and the next one reads. Each subscription knows its own
// offset: it ignores what it has, and what it has missed it asks the server for, so that a message that is lost, a tab
// that was frozen or a reader that changes costs a request and never a chunk.
//
// Only tabs that say the same to the server share: the channel's name is a digest of the address and of the headers.
// Headers that are other ones each time they are asked for are not shared, unless `share` says who the user is.

import { Hub } from "./durable-chat-hub.js";
import { absolute, Backoff, BEGUN_AGAIN, ChatError, fetchBatch, follow, headersOf, pause, withQuery } from "./durable-chat-reads.js";

const VERSION = 1; // of what tabs say to each other: those of another one do not share
const POLL_MS = 2_000; // how often a tab that nobody reads for asks by itself
const WAITING_MAX = 500; // batches for a subscription that is not asked for them; beyond, it asks the server later
const HIDDEN_MS = 10_000; // a tab that reads by itself lets go after it; quick looks elsewhere cost nothing

const hubs = new Map(); // by key, those of this page

/** As `follow`, over the connection that the browser's tabs share where they can. */
export async function* followTogether(options) {
  let { offset } = options;
  while (!options.signal.aborted) {
    const hub = await hubOf(options).catch(() => null); // what is wrong with the headers is for the read to say
    if (!hub) return yield* followAlone({ ...options, offset });
    const place = new Place(new URL(absolute(options.readUrl)).searchParams.get("id"), offset);
    yield* through(hub, place, options);
    if (place.ended || options.signal.aborted) return;
    ({ offset } = place);
  }
}

/** As `follow`; a tab that is hidden for a while lets go of its connection, and goes on where it was when it is looked at. */
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

/** A signal that is aborted with another one, and while nobody looks at the page. */
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

/** Waits until somebody looks at the page, or the signal is aborted. */
export async function lookedAt(signal) {
  while (isHidden() && !signal?.aborted) await pause(POLL_MS, { signal });
}

const isHidden = () => globalThis.document?.visibilityState === "hidden";

/** One subscription's share of what a hub hears, in the manner of `follow`. Returns when the hub is over, too. */
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

/** Asks the server for what a subscription has missed. */
async function catchUp(hub, place, readUrl, options) {
  const { offset } = place;
  const batch = await fetchBatch(withQuery(readUrl, { offset: offset ?? -1 }), options);
  if (offset !== undefined && offset !== "now" && batch.offset < offset) throw BEGUN_AGAIN;
  place.offset = batch.offset;
  const more = batch.chunks.length > 0; // without any, neither a lost header nor a log that was deleted makes this ask on and on
  place.behind = offset !== undefined && more && !batch.upToDate;
  if (offset === undefined || offset === "now") hub.ask();
  else if (more) place.at(hub.places.get(place.session));
  return batch;
}

/**
 * A subscription. Mutable: `offset`, the position after all that is in `queue`; `behind`, while the server is asked for
 * what was missed; `covered`, while some tab reads for it; `error`, to be told; `ended`, once it is over for good.
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

  /** The session's log has been read up to there. */
  at(offset, closed = false) {
    if (offset > this.offset || closed) this.behind = true;
    this.wake();
  }

  fail(error) {
    this.error = error;
    this.covered = false;
    this.wake();
  }

  /** Waits for any of these; where nobody reads for it, the server is asked after a while. */
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

/** The hub for these options, or null where the tabs cannot share. */
async function hubOf(options) {
  const { readUrl, headers, fetchClient, share } = options;
  const can = globalThis.document && globalThis.origin !== "null" && globalThis.navigator?.locks && globalThis.BroadcastChannel && globalThis.crypto?.subtle;
  const url = new URL(absolute(readUrl));
  if (!can || share === false || !url.pathname.endsWith("/chat-stream") || !url.searchParams.get("id")) return null;
  if (fetchClient && !share) return null; // it may say who asks, and where
  const key = await keyOf(options);
  if (!share && key !== (await keyOf(options))) return null;
  if (!hubs.has(key)) {
    const varies = !share && [headers, ...Object.values(headers ?? {})].some((value) => typeof value === "function");
    const isOurs = async () => !varies || (await keyOf(options)) === key;
    hubs.set(key, new Hub(key, { url: eventsUrl(url), isOurs, over: (hub) => hubs.get(key) === hub && hubs.delete(key), options }));
  }
  return hubs.get(key);
}

/** What all have in common that may share: the address, and what they say of themselves. */
async function keyOf({ readUrl, headers, credentials = "", share }) {
  const who = share ?? (await headersOf(headers));
  const said = new TextEncoder().encode(JSON.stringify([VERSION, eventsUrl(absolute(readUrl)), credentials, who]));
  const digest = await crypto.subtle.digest("SHA-256", said);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** `/api/chat-stream?id=S` gives `/api/events`. */
function eventsUrl(readUrl) {
  const url = new URL(readUrl);
  url.pathname = url.pathname.replace(/chat-stream$/, "events");
  url.searchParams.delete("id");
  return url.href;
}
