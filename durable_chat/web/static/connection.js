// The live tail of a session: reads from an offset, and goes on from there after every cut, by itself.

import { ApiError, errorOf, retryAfterOf } from "./api.js";
import { EventParser } from "./sse.js";

const BACKOFF_MIN_MS = 250;
const BACKOFF_MAX_MS = 5_000;
const SILENCE_MAX_MS = 45_000; // the server pings every 15 s; three missed pings mean that nobody is there
const OFFLINE_AFTER_ATTEMPTS = 4; // until then it is a hiccup
const SETTLED_MS = 1_000; // a connection that ends sooner, however cleanly, is not followed by the next one at once
// Offsets are compared as text. One that goes back is of another log: this one was deleted.
const BEGUN_AGAIN = new ApiError("This chat was deleted.", { status: 410, code: "begun_again" });

/**
 * Mutable: `offset`, which is the position after everything handed to `onChunks`.
 *
 * `onState` is told "connecting", "live", "reconnecting", "offline" or "closed". `onRefused` is told about an answer
 * that trying again would not change (4xx), or a log that was deleted (410); the tail has then ended.
 */
export class Tail {
  #attempt = 0;
  #ended = false;
  #abort = null;
  #wake = null;
  #state = null;
  #notBefore = 0;

  constructor({ urlAt, headers = () => ({}), offset, onChunks, onState = () => {}, onRefused = () => {}, silenceMaxMs = SILENCE_MAX_MS }) {
    Object.assign(this, { urlAt, headers, offset, onChunks, onState, onRefused, silenceMaxMs });
  }

  /** Reads until `stop`, a refusal or the end of the stream. */
  async run() {
    this.#say("connecting");
    while (!this.#ended) {
      const follow = await this.#readOnce();
      if (!follow && !this.#ended) await this.#pause();
    }
  }

  stop() {
    this.#ended = true;
    this.#abort?.abort();
    this.#wake?.();
  }

  /** Gives the connection up, as when the browser says that the network is gone: nobody else would notice for long. */
  cut() {
    this.#abort?.abort();
  }

  /** Ends a pause early: the network is back, or somebody looks at the page again. A Retry-After is still kept. */
  retryNow() {
    if (Date.now() >= this.#notBefore) this.#wake?.();
  }

  #say(state) {
    if (state === this.#state || this.#ended) return;
    this.#state = state;
    this.onState(state);
  }

  /** One connection, to its end. True when it ended as the server ends them, so that the next one may follow at once. */
  async #readOnce() {
    this.#abort = new AbortController();
    const watchdog = new Watchdog(this.silenceMaxMs, () => this.#abort.abort());
    const began = performance.now();
    try {
      const response = await fetch(this.urlAt(this.offset), {
        headers: { Accept: "text/event-stream", ...this.headers() },
        signal: this.#abort.signal,
        cache: "no-store",
      });
      watchdog.reset();
      if (!response.ok) return await this.#refused(response);
      this.#say("live");
      const progressed = await this.#readEvents(response.body, watchdog);
      return progressed && performance.now() - began >= SETTLED_MS;
    } catch {
      return false; // cut, refused by the network, or silent for too long: the offset says where to go on
    } finally {
      watchdog.stop();
      this.#abort.abort();
    }
  }

  async #refused(response) {
    const retryable = response.status >= 500 || response.status === 429 || response.status === 408;
    if (retryable) {
      this.#notBefore = Date.now() + (retryAfterOf(response) ?? 0) * 1000;
      return false;
    }
    this.#refuse(await errorOf(response));
    return false;
  }

  #refuse(error) {
    if (this.#ended) return;
    this.#say("closed");
    this.stop();
    this.onRefused(error);
  }

  async #readEvents(body, watchdog) {
    const parser = new EventParser();
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let batch = [];
    let progressed = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#ended) return progressed;
      watchdog.reset();
      for (const event of parser.push(value)) {
        if (event.name === "data") batch = batch.concat(JSON.parse(event.data));
        if (event.name !== "control") continue;
        this.#advance(JSON.parse(event.data), batch);
        batch = [];
        progressed = true;
        this.#attempt = 0;
      }
    }
  }

  /** Data counts once its control event is there: a cut between the two reads both again, and nothing is doubled. */
  #advance(control, chunks) {
    if (this.#ended) return;
    if (control.streamNextOffset < this.offset) return this.#refuse(BEGUN_AGAIN);
    this.offset = control.streamNextOffset;
    if (chunks.length) this.onChunks(chunks);
    if (control.streamClosed) {
      this.#say("closed");
      this.stop();
    }
  }

  async #pause() {
    const backoff = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** this.#attempt++);
    const jittered = backoff * (0.5 + Math.random() / 2);
    const lost = navigator.onLine === false || this.#attempt >= OFFLINE_AFTER_ATTEMPTS;
    this.#say(lost ? "offline" : "reconnecting");
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, Math.max(jittered, this.#notBefore - Date.now()));
    });
    this.#wake = null;
  }
}

/** Calls `bark` when `reset` was not called for so long. */
class Watchdog {
  #timer = null;

  constructor(silenceMs, bark) {
    Object.assign(this, { silenceMs, bark });
    this.reset();
  }

  reset() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.bark, this.silenceMs);
  }

  stop() {
    clearTimeout(this.#timer);
  }
}
