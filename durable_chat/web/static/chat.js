// One chat: the state of the log, the messages that wait to be sent, and the actions on both.

import { Api, explained, wait } from "./api.js";
import { ChatError, newId } from "./durable-chat-reads.js";
import { followTogether } from "./durable-chat-tabs.js";
import { Fold } from "./fold.js";

const REOPEN_MS = 1_000;
const REOPEN_MAX_MS = 5_000;
const CUT = new Set(["reconnecting", "offline"]);
const INTERRUPTED = "The server was interrupted in the middle of this answer. What had been written is here.";
const LOST = new Set([400, 404, 410]); // the offset is invalid: the session was deleted and started over

/** Returns whether a retry would fail again. */
const RESUMED = { retry: "The server came back and answers again.", continue: "The server came back and goes on with this answer." };
const isFinal = ({ status }) => status >= 400 && status < 500 && status !== 408 && status !== 429;

/**
 * Mutable: `fold`, `state` (of the connection), `problem` (why no chat can be shown, or null). `changed` is called after
 * each change. Messages that are not in the log yet are in the `outbox`.
 */
export class Chat {
  #offset = null; // the position after everything in `fold`
  #leaving = null;
  #abandoned = null; // runs that may have no end, `{runs, offset}`
  #closed = false;

  constructor(id, { changed, token, aiKey, outbox }) {
    this.id = id;
    this.api = new Api(id, { token, aiKey });
    this.changed = changed;
    this.fold = new Fold();
    this.outbox = outbox;
    this.retrying = new Map(); // message id -> the retrying run, until it appears in the log
    this.state = "connecting";
    this.opened = false;
    this.problem = null;
    this.notice = null;
  }

  /** Draws the snapshot and follows the log from there, until `close`. */
  async open() {
    for (let attempt = 0; !this.#closed; attempt++) {
      try {
        const snapshot = await this.api.snapshot();
        if (!this.#closed) this.#begin(snapshot);
        return;
      } catch (error) {
        if (this.#refuse(error)) return;
        this.#become(attempt > 2 ? "offline" : "connecting");
        await wait(Math.max(Math.min(REOPEN_MAX_MS, REOPEN_MS * 2 ** attempt), (error.retryAfter ?? 0) * 1000));
      }
    }
  }

  /** Retries refused requests with a new token. */
  async reopen() {
    if (this.#closed || this.state !== "closed") return;
    this.problem = this.notice = null;
    this.#become("connecting");
    await this.open();
  }

  close() {
    this.#closed = true;
    this.#leaving?.abort();
  }

  #begin({ messages, offset, activeRun, contextSummary }) {
    const touched = this.fold.touched;
    for (const message of this.fold.messages) touched.add(message.id);
    this.fold = new Fold(messages, activeRun, contextSummary);
    for (const id of touched) this.fold.touched.add(id);
    this.#abandoned = null;
    this.retrying.clear();
    this.opened = true;
    this.problem = null;
    this.#follow(offset);
    this.changed();
  }

  async #follow(offset) {
    this.#leaving = new AbortController();
    const { signal } = this.#leaving;
    const headers = () => this.api.headers();
    const reads = { readUrl: this.api.route("api/chat-stream"), offset, signal, isFinal, headers, onState: (state) => this.#become(state) };
    this.#offset = offset;
    try {
      for await (const batch of followTogether(reads)) {
        this.#offset = batch.offset;
        if (batch.chunks.length) this.#apply(batch.chunks);
      }
    } catch (error) {
      await this.#lost(error);
    }
  }

  #apply(chunks) {
    for (const chunk of chunks) {
      if (chunk?.runId) this.#tried(chunk.runId); // a log may hold null
      try {
        this.fold.apply(chunk);
      } catch (error) {
        console.error("A chunk was not understood and is left out:", chunk, error);
      }
    }
    this.#endAbandoned();
    this.changed();
  }

  #become(state) {
    if (this.#closed) return;
    const isBack = state === "live" && CUT.has(this.state);
    if (isBack) this.outbox.wake(this.id);
    this.state = state;
    if (isBack && this.fold.generating) this.#findAbandoned();
    this.changed();
  }

  /** A killed server may not have written the end of its run. After a restart, asks the server what still runs. */
  async #findAbandoned() {
    const { fold } = this;
    const found = await this.api.snapshot().catch(() => null); // without a response, the next connection asks again
    if (!found || found.activeRun || fold !== this.fold) return;
    this.#abandoned = { runs: [...fold.runs], offset: found.offset };
    this.#endAbandoned();
    this.changed();
  }

  /** No run is active at that offset, so runs without an end before it will never end. Offsets are compared as text. */
  #endAbandoned() {
    if (!this.#abandoned || this.#offset < this.#abandoned.offset) return;
    for (const runId of this.#abandoned.runs) {
      if (this.fold.runs.has(runId)) this.fold.endRun(runId, { error: { message: INTERRUPTED, code: "interrupted" } });
    }
    this.#abandoned = null;
  }

  /** Returns true if a retry would not help. */
  #refuse(error) {
    if (this.#closed) return true;
    if (!(error instanceof ChatError)) throw error;
    if (!isFinal(error)) return false;
    this.problem = explained(error);
    this.#become("closed");
    return true;
  }

  async #lost(error) {
    if (!LOST.has(error.status)) return this.#refuse(error);
    this.#become("reconnecting");
    await wait(REOPEN_MS);
    if (!this.#closed) await this.open();
  }

  /** Returns the messages to show, in order: `{message, status}`. */
  items() {
    const { fold } = this;
    for (const { message } of this.outbox.list(this.id)) if (fold.message(message.id)) this.#settle(message.id);
    const last = fold.messages.at(-1);
    const items = fold.messages.map((message) => {
      const note = fold.notes.get(message.id);
      if (note) fold.touched.add(message.id); // whether it can be retried depends on the messages after it
      const live = fold.generating && message === fold.current;
      const resumed = live ? RESUMED[[...fold.resumed.values()].at(-1)] : null;
      const waiting = this.retrying.has(message.id) ? "Trying again…" : (resumed ?? null);
      const error = waiting && !resumed ? null : note?.error;
      const summary = fold.summary?.upTo === message.id ? fold.summary : null;
      const retry = message === last && !fold.generating;
      return { message, status: { live, error, waiting, stopped: note?.stopped, cut: note?.cut, retry, summary } };
    });
    for (const { message, error, turns } of fold.queued.values()) {
      this.#settle(message.id);
      const waits = !error && fold.generating;
      const hint = turns === "steer" ? "The answer above hears this at its next step" : "Waits until the answer above is done";
      items.push({ message, status: { error, waiting: hint, retry: true, takeBack: waits, sendNow: waits && { steers: turns !== "steer" } } });
    }
    for (const entry of this.outbox.list(this.id)) items.push({ message: entry.message, status: statusOf(entry) });
    return items;
  }

  /** True while an answer is expected that has no content yet. */
  get thinking() {
    const { current, generating } = this.fold;
    return generating && !current?.parts.some((part) => part.type !== "text" || part.content);
  }

  #settle(id) {
    if (this.outbox.remove(this.id, id)) this.fold.touched.add(id);
  }

  /** Shows the message immediately, and sends it as soon as the server accepts it. */
  send(text, files = []) {
    const parts = [...files, ...(text ? [{ type: "text", content: text }] : [])];
    const message = { id: `msg-${newId()}`, role: "user", parts, createdAt: new Date().toISOString() };
    this.outbox.add(this.id, message, newId());
  }

  /** Withdraws and returns a message that is unsent, or waits at the server. Returns null if it is being answered by now. */
  async takeBack(id) {
    const unsent = this.outbox.remove(this.id, id)?.message;
    if (unsent) return unsent;
    const message = this.#queued(id)?.message;
    if (!message) return null;
    return (await this.#try(() => this.api.takeBack(id))) ? message : null;
  }

  /** Lets the running answer hear a waiting message, or stops that answer for it. */
  async sendNow(id, { steers }) {
    await this.#try(() => this.api.sendNow(id, steers ? "steer" : "interrupt"));
  }

  #queued(id) {
    return [...this.fold.queued.values()].find((turn) => turn.message.id === id);
  }

  /** Marks these messages as changed. */
  touch(ids) {
    for (const id of ids) this.fold.touched.add(id);
    this.changed();
  }

  /** Sends a refused message again, or requests a failed answer again. */
  async retry(id) {
    if (this.retrying.has(id)) return;
    if (this.outbox.list(this.id).some(({ message }) => message.id === id)) return this.outbox.retry(this.id, id);
    const question = this.#queued(id)?.message ?? this.#questionOf(id);
    if (question) await this.#askAgain(id, question);
  }

  /** Replaces the text of a message. The messages after it are dropped, and it is answered again. */
  async edit(id, text) {
    const refused = this.outbox.remove(this.id, id)?.message;
    if (refused) return this.send(text, refused.parts.filter((part) => part.type !== "text"));
    const message = this.fold.message(id);
    if (!message || this.retrying.has(id)) return;
    const parts = [...message.parts.filter((part) => part.type !== "text"), { type: "text", content: text }];
    await this.#askAgain(id, { ...message, parts });
  }

  /** Shows the message as retrying until its run begins, because the response may arrive before the log's chunks. */
  async #askAgain(id, question) {
    const runId = newId();
    this.retrying.set(id, runId);
    this.#touch(id);
    if (!(await this.#try(() => this.api.send([question], runId)))) this.#tried(runId);
  }

  #tried(runId) {
    for (const [id, awaited] of this.retrying) {
      if (awaited !== runId) continue;
      this.retrying.delete(id);
      this.#touch(id);
    }
  }

  #questionOf(id) {
    const { messages } = this.fold;
    const at = messages.findIndex((message) => message.id === id);
    return messages.slice(0, at + 1).findLast((message) => message.role === "user");
  }

  async stop() {
    await this.#try(() => this.api.stop());
  }

  /** Approves or denies a tool call. Posts when all questions of the message are answered. */
  async answer(messageId, toolCallId, approved) {
    const message = this.fold.message(messageId);
    const calls = message.parts.filter((part) => part.type === "tool-call");
    const call = calls.find((part) => part.id === toolCallId);
    Object.assign(call, { state: "approval-responded", approval: { ...call.approval, approved } });
    this.#touch(messageId);
    if (calls.some((part) => part.state === "approval-requested")) return;
    const posted = structuredClone(message);
    const done = await this.#try(() => this.api.send([posted], newId()));
    if (done || call.state !== "approval-responded") return;
    for (const part of calls) if (part.state === "approval-responded" && part.output === undefined) part.state = "approval-requested";
    this.#touch(messageId);
  }

  async #try(work) {
    this.notice = null;
    try {
      await work();
      return true;
    } catch (error) {
      this.notice = error;
      this.changed();
      return false;
    }
  }

  #touch(id) {
    this.touch([id]);
  }
}

/** Returns the status shown below a message of the outbox. */
function statusOf({ error, sending, sent, failed, reason, isLoose }) {
  if (error) return { error, retry: true, takeBack: true };
  if (sent || (sending && !failed)) return { waiting: "Sending…" };
  const kept = isLoose ? " This browser cannot keep it: leave this tab open until it is sent." : "";
  return { waiting: `Waiting to be sent.${reason ? ` ${reason}` : ""}${kept}`, takeBack: true };
}
