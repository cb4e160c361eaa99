// The connection over which one tab reads for all of its browser: any number of sessions in one response.

import { Backoff, readEvents } from "./durable-chat-reads.js";

const ADDRESS_CHARS_MAX = 7_000; // of one response: nginx takes 8 KB. It has room for 80 sessions; tabs of further ones ask by themselves
const SESSION_CHARS = 46; // that a session takes in it, beside its id
const JOIN_MS = 30; // sessions that come within it cost one new connection
const SETTLED_MS = 1_000; // a response that ends sooner, however cleanly, is not followed by the next one at once
const REFUSED_MS = 5_000; // how long a session that was refused is left out

const ABSENT = new Set([404, 405, 501]); // the server, or what is before it, has no such route
const PASSING = new Set([0, 408, 425, 429]); // beside all from 500 on: worth another try

/**
 * Mutable: `running`, once it may connect; `places`, the offset up to which each session has been read; `#refused`, until when some are left out; the
 * connection that is open. `tell` is whom it reads for.
 */
export class SharedRead {
  running = false;
  #refused = new Map();
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

  /** Takes in what is wanted and not read yet; the places of all that is read. */
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
    const sessions = [...this.places.keys(), session];
    const chars = sessions.reduce((sum, id) => sum + encodeURIComponent(id).length + SESSION_CHARS, this.url.length);
    return chars <= ADDRESS_CHARS_MAX || sessions.length === 1;
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

  /** One response: true when the next one may follow at once, else how long to wait at least, null for never. */
  async #connect(backoff) {
    const cut = (this.#cut = new AbortController());
    clearTimeout(this.#joining);
    this.#joining = null;
    const began = performance.now();
    this.tell.connecting();
    try {
      for await (const events of readEvents(this.url, this.places, { ...this.options, signal: cut.signal })) {
        backoff.say("live");
        if (events.some(({ name }) => name !== "refusal")) backoff.succeeded();
        this.#hear(events);
      }
      return cut.signal.aborted || performance.now() - began >= SETTLED_MS || 0;
    } catch (error) {
      if (cut.signal.aborted) return true;
      if (ABSENT.has(error.status)) return this.tell.alone(), null;
      if (error.status && error.status < 500 && !PASSING.has(error.status)) this.#refuse(null, error);
      return (error.retryAfter ?? 0) * 1000;
    }
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
