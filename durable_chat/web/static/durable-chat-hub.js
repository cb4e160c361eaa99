// One of the tabs that share a connection: the election of the reading tab, and the messages between tabs.
//
// Messages on the channel: a tab sends what it `want`s, and `bye`. The reading tab sends how far it `reads`, the `batches`,
// and what was `refused`.

import { ChatError, newId, pause } from "./durable-chat-reads.js";
import { SharedRead } from "./durable-chat-shared.js";

const CONNECTIONS_MAX = 3; // live reads of one browser and host where tabs do not share; HTTP/1.1 keeps three to send
const RETRY_MS = 2_000; // how soon a tab without permission to read retries
const PING_MS = 3_000; // how often a tab announces what it follows
const SILENCE_MAX_MS = 7_000; // a reader that is silent for longer is frozen; a visible tab takes its place
const TAB_MAX_MS = 180_000; // a tab that is silent for longer is gone; timers of hidden tabs fire once a minute

const isHidden = () => document.visibilityState === "hidden";

/**
 * Mutable: `places`, how far each session has been read; `state`, of the connection; `over`, once the headers have
 * changed; `alone`, if the server lacks the route; the subscriptions of this tab and of the others.
 */
export class Hub {
  places = new Map();
  state = "connecting";
  over = false;
  alone = false;
  #tab = newId();
  #subscriptions = new Set();
  #tabs = new Map(); // `{sessions, heardAt}`
  #leader = null;
  #connects = 0;
  #heardAt = 0;
  #life = null; // aborted when this tab is closed, frozen or finished
  #read = null; // while this tab reads
  #stealing = false;

  constructor(key, { url, isOurs, over, options }) {
    Object.assign(this, { key, url, isOurs, forget: over, options });
  }

  join(place) {
    this.#subscriptions.add(place);
    if (!this.#life) this.#begin();
    if (this.state !== "connecting") place.say(this.state);
    this.ask();
  }

  leave(place) {
    this.#subscriptions.delete(place);
    if (this.#subscriptions.size) this.ask();
    else this.#end(), this.forget(this);
  }

  /** Tells the reading tab, which may be this one, what this tab follows. */
  ask() {
    if (this.#read) this.#heed();
    else if (this.#life) this.#say({ want: this.#sessions() });
  }

  #sessions() {
    const known = [...this.#subscriptions].filter(({ offset, error }) => offset !== undefined && offset !== "now" && !error);
    return known.map(({ session, offset }) => [session, offset]);
  }

  /** Returns what all tabs want, as pairs of a session and an offset. */
  #wanted() {
    const since = performance.now() - TAB_MAX_MS;
    for (const [tab, { heardAt }] of this.#tabs) if (heardAt < since) this.#tabs.delete(tab);
    return new Map([...[...this.#tabs.values()].flatMap(({ sessions }) => sessions), ...this.#sessions()]);
  }

  #begin() {
    const { signal } = (this.#life = new AbortController());
    this.#heardAt = performance.now();
    this.channel = new BroadcastChannel(`durable-chat ${this.key}`);
    this.channel.addEventListener("message", ({ data }) => this.#hear(data));
    const timer = setInterval(() => this.#tick(), PING_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
    // A frozen page, or one in the back/forward cache, must not hold the lock that other tabs wait for.
    addEventListener("pagehide", () => this.#rest(), { signal });
    document.addEventListener("freeze", () => this.#rest(), { signal });
    document.addEventListener("visibilitychange", () => this.#tick(), { signal });
    this.#stand(this.#life);
  }

  #rest() {
    this.#end();
    const woken = new AbortController();
    const wake = () => {
      woken.abort();
      if (!this.#subscriptions.size || this.#life || this.over) return;
      this.#begin();
      for (const place of this.#subscriptions) place.at(place.offset, true);
      this.ask();
    };
    globalThis.addEventListener("pageshow", wake, { signal: woken.signal });
    document.addEventListener("resume", wake, { signal: woken.signal });
  }

  #end() {
    if (!this.#life) return;
    this.#say({ bye: true });
    this.#life.abort();
    this.#read?.end();
    this.#life = this.#read = null;
    this.channel.close();
  }

  /** Checks the headers. If they have changed, each subscription finds the tabs that now send the same ones. */
  async #checkHeaders() {
    if ((await this.isOurs().catch(() => true)) || !this.#life) return;
    this.over = true;
    this.forget(this);
    this.#end();
    for (const place of this.#subscriptions) place.wake();
  }

  // The election of the reading tab.

  /** Waits for the lock and then reads, repeatedly. */
  async #stand(life) {
    while (!life.signal.aborted && !this.alone) await this.#hold({ signal: life.signal }, life);
  }

  /** Replaces a hidden or frozen reader, because this tab is visible. */
  async #steal() {
    if (this.#stealing) return;
    this.#stealing = true;
    this.#heardAt = performance.now();
    await this.#hold({ steal: true }, this.#life);
  }

  async #hold(how, life) {
    let read = null;
    const lead = () => {
      this.#stealing = false;
      if (life.signal.aborted) return null;
      read = this.#read = this.#newRead();
      return this.#lead(read);
    };
    await navigator.locks.request(`durable-chat ${this.key}`, how, lead).catch((error) => {
      if (error.name === "AbortError") return; // another tab has taken over, or this one ends
      console.error("Tabs cannot share a connection:", error);
      this.alone = true;
      for (const place of this.#subscriptions) place.wake();
    });
    read?.end();
    if (this.#read === read) this.#read = null;
  }

  #newRead() {
    return new SharedRead(this.url, this.options, {
      places: this.places,
      wanted: () => this.#wanted(),
      connecting: () => (this.#connects++, this.#heed(), this.#checkHeaders()),
      batches: (batches) => (this.#say({ batches }), batches.forEach((batch) => this.#hand(batch))),
      refused: (session, { said, status, code, retryAfter }) => {
        const refused = { session, error: { said, status, code, retryAfter } };
        this.#say({ refused });
        this.#refuse(refused);
      },
      become: (state) => this.#become(state),
      alone: () => (this.alone = true),
    });
  }

  async #lead(read) {
    this.#leader = this.#tab;
    this.#heed();
    while (!read.signal.aborted && !this.alone) {
      for (let i = 0; i < CONNECTIONS_MAX && !read.signal.aborted && !this.alone; i++) {
        const name = `durable-chat ${new URL(this.url).host} ${i}`;
        await navigator.locks.request(name, { ifAvailable: true }, (lock) => lock && read.run());
      }
      if (!read.signal.aborted && !this.alone) await pause(RETRY_MS, { signal: read.signal });
    }
    if (this.alone && this.#read === read) this.#heed();
  }

  // Messages between tabs.

  #tick() {
    if (!this.#life) return;
    this.ask();
    const silent = performance.now() - this.#heardAt > SILENCE_MAX_MS;
    if (!this.#read && silent && !isHidden()) this.#steal();
  }

  #say(message) {
    this.channel.postMessage({ tab: this.#tab, ...message });
  }

  #hear({ tab, want, bye, reads, batches, refused }) {
    if (bye) this.#tabs.delete(tab);
    if (want) {
      this.#tabs.set(tab, { sessions: want, heardAt: performance.now() });
      if (this.#read) this.#heed();
    }
    if (this.#read || !(reads || batches || refused)) return;
    this.#heardAt = performance.now();
    if (reads) this.#follow(tab, reads);
    for (const batch of batches ?? []) this.#hand(batch);
    if (refused) this.#refuse(refused);
  }

  /** Reads the wanted sessions, and announces the offset of each. */
  #heed() {
    const places = this.#read.running ? [...this.#read.heed()] : [];
    this.#say({ reads: { places, state: this.state, hidden: isHidden(), alone: this.alone, connects: this.#connects } });
    this.#cover(new Map(places));
  }

  /** Handles a message of the reading tab about itself. */
  #follow(tab, { places, state, hidden, alone, connects }) {
    this.places = new Map(places);
    this.alone ||= alone;
    this.#become(state);
    this.#cover(this.places);
    if (tab !== this.#leader) this.ask();
    if (tab !== this.#leader || connects !== this.#connects) this.#checkHeaders();
    this.#leader = tab;
    this.#connects = connects;
    if (hidden && !isHidden()) this.#steal();
  }

  #cover(places) {
    for (const place of this.#subscriptions) {
      place.covered = places.has(place.session);
      place.at(places.get(place.session) ?? "");
    }
  }

  #hand(batch) {
    this.places.set(batch.session, batch.offset);
    for (const place of this.#subscriptions) if (place.session === batch.session) place.take(batch);
  }

  #refuse({ session, error }) {
    for (const place of this.#subscriptions) if (session === null || place.session === session) place.fail(new ChatError(error));
  }

  #become(state) {
    const changed = state !== this.state;
    this.state = state;
    // A subscription that no tab reads for reports its own state.
    if (state !== "connecting") for (const place of this.#subscriptions) place.say(state);
    if (changed && this.#read) this.#heed();
  }
}
