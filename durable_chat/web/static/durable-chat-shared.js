// The connection over which one tab reads for all tabs of the browser: many sessions in one response.

import { Backoff, readEvents } from "./durable-chat-reads.js";

const ADDRESS_CHARS_MAX = 7_000; // nginx accepts 8 KB. Enough for 80 sessions; more are sent in a body
const SESSIONS_MAX = 1_000; // the server accepts as many in a body; tabs with further sessions read on their own
const SESSION_CHARS = 46; // per session in the address, besides its id
const JOIN_MS = 30; // sessions that are added within this time share a new connection
const SETTLED_MS = 1_000; // after a shorter response, the next request waits, also if it ended cleanly
const REFUSED_MS = 5_000; // how long a refused session is omitted

const ABSENT = new Set([404, 405, 501]); // the server, or a proxy before it, lacks the route
const PASSING = new Set([0, 408, 425, 429]); // retried, like all statuses from 500 on

/**
 * Mutable: `running`, once it may connect; `places`, the offset up to which each session has been read; `#refused`, until when refused
 * sessions are omitted; `#addressOnly`, if the server takes no sessions in a body; the open connection. `tell` receives the events.
 */
export class SharedRead {
  running = false;
  #refused = new Map();
  #addressOnly = false;
  #over = new AbortController();
  #cut = new AbortController();
  #joining = null;
  #wake = () => {};

  constructor(url, options, tell) {
    Object.assign(this, { url, options, tell, places: tell.places });
  }

  get signal() {
    return this.#over.signal;
  }

  end() {
    this.#over.abort();
    this.#cut.abort();
    clearTimeout(this.#joining);
    this.#wake();
  }

  /** Adds wanted sessions that are not read yet, and returns the places of all sessions. */
  heed() {
    const wanted = this.tell.wanted();
    let news = false;
    for (const [session, offset] of wanted) {
      if (this.places.has(session) || this.#refused.get(session) > performance.now() || !this.#hasRoom(session)) continue;
      this.places.set(session, offset);
      news = true;
    }
    if (news) {
      this.#joining ??= setTimeout(() => ((this.#joining = null), this.#cut.abort(), this.#wake()), JOIN_MS);
    }
    return this.places;
  }

  #hasRoom(session) {
    if (!this.#addressOnly) return this.places.size < SESSIONS_MAX;
    return this.places.size === 0 || this.#fitsAddress([...this.places.keys(), session]);
  }

  #fitsAddress(sessions) {
    const chars = sessions.reduce((sum, id) => sum + encodeURIComponent(id).length + SESSION_CHARS, this.url.length);
    return chars <= ADDRESS_CHARS_MAX;
  }

  /** Reads until the end. */
  async run() {
    const backoff = new Backoff((state) => this.tell.become(state));
    this.running = true;
    while (!this.signal.aborted) {
      const wanted = this.tell.wanted();
      for (const session of this.places.keys()) if (!wanted.has(session)) this.places.delete(session);
      this.heed();
      if (!this.places.size) {
        await new Promise((resolve) => (this.#wake = resolve));
        continue;
      }
      const settled = await this.#connect(backoff);
      if (settled === null) return;
      if (settled !== true && !this.signal.aborted) await backoff.pause({ signal: this.signal, leastMs: settled });
    }
  }

  /** Reads one response. Returns true if the next may follow immediately, else the minimum wait, or null for never. */
  async #connect(backoff) {
    const cut = (this.#cut = new AbortController());
    clearTimeout(this.#joining);
    this.#joining = null;
    const began = performance.now();
    const posts = this.places.size > 1 && !this.#fitsAddress([...this.places.keys()]);
    this.tell.connecting();
    try {
      for await (const events of readEvents(this.url, this.places, { ...this.options, posts, signal: cut.signal })) {
        backoff.say("live");
        if (events.some(({ name }) => name !== "refusal")) backoff.succeeded();
        this.#hear(events);
      }
      return cut.signal.aborted || performance.now() - began >= SETTLED_MS || 0;
    } catch (error) {
      if (cut.signal.aborted) return true;
      if (ABSENT.has(error.status) && posts) return this.#shrink(), true;
      if (ABSENT.has(error.status)) return this.tell.alone(), null;
      if (error.status && error.status < 500 && !PASSING.has(error.status)) this.#refuse(null, error);
      return (error.retryAfter ?? 0) * 1000;
    }
  }

  /** Keeps as many sessions as fit into an address: an older server, or a proxy, takes no body. */
  #shrink() {
    this.#addressOnly = true;
    const left = [...this.places];
    this.places.clear();
    for (const [session, offset] of left) if (this.#hasRoom(session)) this.places.set(session, offset);
  }

  #hear(events) {
    const batches = [];
    for (const { name, session, offset, chunks = [], closed = false, ...refusal } of events) {
      if (name === "refusal") this.#refuse(session, { ...refusal, said: refusal.error });
      else {
        const from = this.places.get(session);
        this.places.set(session, offset);
        batches.push({ session, from, offset, chunks, closed, again: offset < from });
      }
    }
    if (batches.length) this.tell.batches(batches);
  }

  #refuse(session, error) {
    for (const refused of session === null ? [...this.places.keys()] : [session]) {
      this.places.delete(refused);
      if (session !== null) this.#refused.set(refused, performance.now() + REFUSED_MS);
    }
    this.tell.refused(session, error);
  }
}
