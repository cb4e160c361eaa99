// Messages that wait to be sent. The browser stores them by session, over reloads, until the server has acknowledged them.
// They are sent in order, each with an idempotency key, so that a retry after a lost response has no second effect.
//
// Any tab may send them. A Web Lock ensures that only one does. Without Web Locks, two tabs may send the same message; the
// server then recognizes its key.

import { explained } from "./api.js";
import { pause } from "./durable-chat-reads.js";

const PREFIX = "durable-chat.outbox/";
const RETRY_MS = 500; // doubled with each attempt
const RETRY_MAX_MS = 5_000; // the maximum delay after a server is back

/** Errors that are retried without a limit: no response, or a temporary refusal. */
const isPassing = ({ status }) => status === 0 || [408, 425, 429, 502, 503, 504].includes(status);

const NOT_OURS = Symbol("another tab's");

const folder = (session) => `${PREFIX}${encodeURIComponent(session)}/`;

/**
 * Mutable: `#lists`, the waiting entries by session, as read from the storage; `#loose`, entries that could not be stored;
 * `#states`, `{sending, sent, reason}` by message id.
 *
 * An entry is `{session, message, runId, error}`; `error` is a permanent one. `post(entry)` sends an entry. `changed(session,
 * ids)` is called after each change. `mayRefuse(session)` says whether a refusal counts: it does not in a tab without the
 * session's token.
 */
export class Outbox {
  #lists = new Map();
  #loose = new Map();
  #states = new Map();
  #sending = new Set();
  #wakes = new Map();
  #last = 0;

  constructor({ post, changed, mayRefuse }) {
    Object.assign(this, { post, changed, mayRefuse });
    addEventListener("storage", ({ key }) => this.#noticed(key));
  }

  /** Sends entries of an earlier visit. */
  begin() {
    const names = keysOf(PREFIX).map((key) => key.slice(PREFIX.length, key.indexOf("/", PREFIX.length)));
    for (const name of new Set(names)) this.send(decodeURIComponent(name));
  }

  /** Returns the waiting entries of a session, oldest first, each with its `key` and state. */
  list(session) {
    let list = this.#lists.get(session);
    if (!list) {
      const loose = [...this.#loose.values()].filter((entry) => entry.session === session);
      list = [...keysOf(folder(session)).map(read).filter(Boolean), ...loose].sort((a, b) => (a.key < b.key ? -1 : 1));
      this.#lists.set(session, list);
    }
    return list.map((entry) => ({ ...entry, ...this.#states.get(entry.message.id) }));
  }

  add(session, message, runId) {
    this.#last = Math.max(Date.now(), this.#last + 1);
    const key = `${folder(session)}${String(this.#last).padStart(15, "0")}/${message.id}`;
    this.#keep({ key, session, message, runId, error: null });
    this.send(session);
  }

  /** Removes an entry that was withdrawn or is in the log. */
  remove(session, id) {
    const entry = this.#find(session, id);
    if (!entry) return null;
    keep(entry.key, null);
    this.#loose.delete(entry.key);
    this.#states.delete(id);
    this.#change(session, [id]);
    return entry;
  }

  /** Retries refused entries. */
  retry(session, id) {
    const entry = this.#find(session, id);
    if (entry?.error) this.#keep({ ...entry, error: null });
    this.send(session);
  }

  forget(session) {
    for (const { message } of this.list(session)) this.remove(session, message.id);
  }

  /** Retries now, because the server may be reachable again. */
  wake(session) {
    this.#wakes.get(session)?.();
  }

  #find(session, id) {
    return this.list(session).find((entry) => entry.message.id === id);
  }

  #keep(entry) {
    const { key, session, message, runId, error } = entry;
    this.#loose.delete(key);
    if (!keep(key, JSON.stringify({ session, message, runId, error }))) {
      this.#loose.set(key, { key, session, message, runId, error, isLoose: true });
    }
    this.#change(session, [message.id]);
  }

  #become(entry, state) {
    this.#states.set(entry.message.id, state);
    this.#change(entry.session, [entry.message.id]);
  }

  #change(session, ids) {
    this.#lists.delete(session);
    this.changed(session, ids);
  }

  /** Handles a change by another tab. */
  #noticed(key) {
    if (key !== null && !key.startsWith(PREFIX)) return;
    for (const session of [...this.#lists.keys()]) {
      if (key !== null && !key.startsWith(folder(session))) continue;
      const before = this.list(session).map(({ message }) => message.id);
      this.#lists.delete(session);
      this.changed(session, [...before, ...this.list(session).map(({ message }) => message.id)]);
      this.send(session);
    }
  }

  /** Sends the waiting entries of a session, unless another tab does. */
  async send(session) {
    if (this.#sending.has(session)) return this.wake(session);
    this.#sending.add(session);
    try {
      for (let attempts = 0; this.#next(session); ) {
        const error = await exclusively(`${folder(session)}send`, () => this.#sendAll(session));
        if (error === NOT_OURS) return;
        attempts = error ? attempts + 1 : 0;
        if (error) await this.#pause(session, attempts, error); // any tab may try during the pause
      }
    } finally {
      this.#sending.delete(session);
    }
  }

  #next(session) {
    return this.list(session).find(({ error, sent }) => !error && !sent);
  }

  /** Returns null if all is sent, else the error to retry after, or NOT_OURS if this tab may not send. */
  async #sendAll(session) {
    this.#lists.delete(session); // another tab may have sent an entry whose event has not arrived yet
    for (let entry; (entry = this.#next(session)); ) {
      this.#become(entry, { ...this.#states.get(entry.message.id), sending: true });
      try {
        await this.post(entry);
        this.#sent(entry);
      } catch (error) {
        if (isPassing(error)) {
          this.#become(entry, { failed: true, reason: error.status ? error.message : null });
          return error;
        }
        if (!this.mayRefuse(session)) return this.#become(entry, {}), NOT_OURS;
        this.#refuse(entry, error);
      }
    }
    return null;
  }

  /** Handles an acknowledged entry: it stays visible until the log has it, but is no longer stored. */
  #sent(entry) {
    if (!this.#find(entry.session, entry.message.id)) return; // withdrawn, or already in the log
    keep(entry.key, null);
    this.#loose.set(entry.key, entry);
    this.#become(entry, { sent: true });
  }

  #refuse(entry, error) {
    if (!this.#find(entry.session, entry.message.id)) return;
    this.#states.delete(entry.message.id);
    const { message, code, status } = explained(error);
    this.#keep({ ...entry, error: { message, code, status } });
  }

  async #pause(session, attempts, { retryAfter }) {
    const leastMs = (retryAfter ?? 0) * 1000;
    const woken = new Promise((resolve) => leastMs || this.#wakes.set(session, resolve));
    await Promise.race([woken, pause(Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** (attempts - 1)), { leastMs })]);
    this.#wakes.delete(session);
    this.#lists.delete(session);
  }
}

const exclusively = (name, work) => (navigator.locks ? navigator.locks.request(name, work) : work());

function read(key) {
  try {
    const { session, message, runId, error } = JSON.parse(localStorage.getItem(key));
    return Array.isArray(message.parts) && typeof runId === "string" ? { key, session, message, runId, error: error ?? null } : null;
  } catch {
    return null; // gone meanwhile, or somebody else's data under our name
  }
}

function keysOf(prefix) {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return []; // a browser may disable storage
  }
}

/** Stores the entries and returns whether that succeeded. */
function keep(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
    return true;
  } catch {
    return false; // full or disabled
  }
}
