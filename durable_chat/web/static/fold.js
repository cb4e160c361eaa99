// Folds chunks into messages: every tab gets the same transcript, whenever it joins.
//
// A log may contain any JSON value anywhere, and folding never throws. The time for a chunk is linear in its length.

import { isText, noteOf, readMessage, readMessages, recordOr, textOr } from "./shapes.js";

/**
 * Mutable: everything. `messages` are UIMessages in order. `notes` says how the run of a message ended (`{error}`,
 * `{stopped}` or `{cut}`, a finish reason), by message id. `queued` holds waiting turns, `{message, turns,
 * error?}`, by run id, in the order in which they begin.
 * `runs` are the runs without an end, and `resumed` says how those go on whose server died. `summary` is what the model is given instead of earlier messages, `{upTo, text,
 * failure?}`, or null. `touched` collects the ids to draw again; the code that draws clears it.
 */
export class Fold {
  constructor(messages = [], activeRun = null, summary = null) {
    this.messages = [];
    this.notes = new Map();
    this.queued = new Map();
    this.runs = new Set();
    this.resumed = new Map();
    this.touched = new Set();
    this.ids = new Map();
    this.current = null; // the assistant message of chunks without a message id
    this.before = null; // the id of the last message before the run
    this.structured = new Set(); // ids whose text is JSON
    this.waiting = new Map(); // message id -> the run in `queued`
    this.summary = null;
    this.#replace(messages);
    this.summarize(summary);
    if (activeRun?.runId) this.runs.add(activeRun.runId);
  }

  get generating() {
    return this.runs.size > 0;
  }

  message(id) {
    return this.ids.get(id);
  }

  replace(messages) {
    this.#replace(messages);
  }

  /** Notes the summary of the messages up to one of them. */
  summarize(value) {
    const { upTo, text, failure } = recordOr(value);
    if (!isText(upTo) || !isText(text)) return;
    if (this.summary) this.touched.add(this.summary.upTo);
    this.summary = { upTo, text, failure: isText(failure) };
    this.touched.add(upTo);
  }

  /** Folds one chunk. Unknown types and invalid chunks change nothing. */
  apply(value) {
    const chunk = recordOr(value);
    const step = isText(chunk.type) && Object.hasOwn(STEPS, chunk.type) ? STEPS[chunk.type] : null;
    step?.(this, { ...recordOr(recordOr(chunk.metadata).tanstack), ...chunk });
  }

  #replace(messages) {
    for (const id of this.ids.keys()) this.touched.add(id);
    const before = this.messages;
    this.messages = readMessages(messages);
    if (this.summary && !isSameUpTo(this.summary.upTo, before, this.messages)) this.summary = null;
    this.ids = new Map(this.messages.map((message) => [message.id, message]));
    this.calls = new Map(); // tool call id -> {message, part} in the newest message that has it
    this.keyed = new Map(); // message -> its parts by key, for deltas
    for (const message of this.messages) {
      this.touched.add(message.id);
      this.dequeue(message.id);
      for (const part of message.parts) this.#index(message, part);
      this.#noteFromMetadata(message);
    }
    for (const id of this.notes.keys()) if (!this.ids.has(id)) this.notes.delete(id);
    this.current = null;
  }

  #noteFromMetadata(message) {
    const note = noteOf(recordOr(recordOr(message.metadata).durableChat).run);
    if (note) this.notes.set(message.id, note);
  }

  open(given, role) {
    const id = textOr(given) || `message-${this.messages.length}`;
    let message = this.ids.get(id);
    if (!message) {
      message = { id, role, parts: [] };
      this.messages.push(message);
      this.ids.set(id, message);
    }
    if (message.role === "assistant") {
      if (this.current) this.touched.add(this.current.id); // it has stopped growing
      this.current = message;
    }
    this.touched.add(id);
    return message;
  }

  /** Returns the assistant message of a chunk, which may lack a message id. */
  target(id, chunk) {
    const name = textOr(id) || `answer-${textOr(chunk.runId) || this.messages.length}`;
    const message = this.ids.get(id) ?? this.current ?? this.open(name, "assistant");
    this.touched.add(message.id);
    return message;
  }

  /** Adds a part at the end of a message. */
  add(message, part) {
    message.parts.push(part);
    this.#index(message, part);
    return part;
  }

  /** Returns the newest part of a message with a key (see `keyOf`), or creates one. */
  part(message, key, make) {
    return this.keyed.get(message)?.get(key) ?? this.add(message, make());
  }

  #index(message, part) {
    if (part.type === "tool-call") this.calls.set(part.id, { message, part });
    const key = keyOf(part);
    if (!key) return;
    if (!this.keyed.has(message)) this.keyed.set(message, new Map());
    this.keyed.get(message).set(key, part);
  }

  dropText(message) {
    if (!this.keyed.get(message)?.delete("text")) return;
    message.parts = message.parts.filter((part) => part.type !== "text");
  }

  /** Removes a waiting message, because it is in the transcript. */
  dequeue(messageId) {
    if (this.waiting.has(messageId)) this.queued.delete(this.waiting.get(messageId));
    this.waiting.delete(messageId);
  }

  endRun(runId, note) {
    if (runId && this.queued.has(runId) && !this.runs.has(runId)) return this.#endQueued(runId, note);
    const other = runId && !this.runs.has(runId) && this.generating;
    if (other) return;
    if (runId) this.runs.delete(runId);
    else this.runs.clear();
    for (const id of this.resumed.keys()) if (!this.runs.has(id)) this.resumed.delete(id);
    const message = this.messages.at(-1); // as on the server; not the answer of another run
    const begun = message?.role === "user" || message?.id !== this.before;
    if (message && note && (begun || note.error)) this.notes.set(message.id, note);
    if (message) this.touched.add(message.id);
    if (!this.generating) this.current = null;
  }

  #endQueued(runId, note) {
    const turn = this.queued.get(runId);
    this.touched.add(turn.message.id);
    if (note) Object.assign(turn, note);
    else this.dequeue(turn.message.id);
  }
}

/** Returns whether the messages up to one of them are unchanged. Otherwise a summary of them ends, as on the server. */
function isSameUpTo(id, before, after) {
  const end = before.findIndex((message) => message.id === id);
  return end >= 0 && before.slice(0, end + 1).every((message, i) => i < after.length && isSame(message, after[i]));
}

function isSame(one, other) {
  const files = ({ parts }) => JSON.stringify(parts.map((part) => part.source).filter(Boolean));
  return one.id === other.id && one.role === other.role && textOf(one) === textOf(other) && files(one) === files(other);
}

function keyOf({ type, stepId }) {
  if (type === "thinking") return `thinking ${textOr(stepId)}`;
  return type === "structured-output" || type === "text" ? type : null;
}

const STEPS = {
  RUN_STARTED(fold, chunk) {
    fold.runs.clear(); // one run at a time: older runs are over
    fold.runs.add(chunk.runId);
    if (fold.queued.has(chunk.runId)) fold.dequeue(fold.queued.get(chunk.runId).message.id);
    if (fold.current) fold.touched.add(fold.current.id);
    fold.current = null;
    const last = fold.messages.at(-1);
    fold.before = last?.id ?? null;
    if (last?.role === "user" && fold.notes.delete(last.id)) fold.touched.add(last.id);
  },

  RUN_FINISHED(fold, chunk) {
    const stopped = chunk.stopped === true || recordOr(chunk.outcome).type === "cancelled";
    fold.endRun(chunk.runId, noteOf({ status: stopped ? "stopped" : "finished", finishReason: chunk.finishReason }));
  },

  RUN_ERROR(fold, chunk) {
    const older = recordOr(chunk.error); // its place in earlier versions of the format
    const message = textOr(chunk.message) || textOr(older.message) || "The answer failed.";
    fold.endRun(chunk.runId, { error: { message, code: chunk.code ?? older.code } });
  },

  TEXT_MESSAGE_START(fold, chunk) {
    const role = chunk.role === "user" || chunk.role === "system" ? chunk.role : "assistant";
    const message = fold.open(chunk.messageId, role);
    if (role === "user") fold.dropText(message); // its text follows
    fold.dequeue(message.id);
  },

  TEXT_MESSAGE_CONTENT(fold, chunk) {
    const message = fold.target(chunk.messageId, chunk);
    if (fold.structured.has(message.id)) return appendStructured(fold, message, chunk.delta);
    const last = message.parts.at(-1);
    if (last?.type === "text") last.content += textOr(chunk.delta);
    else fold.add(message, { type: "text", content: textOr(chunk.delta) });
  },

  REASONING_MESSAGE_CONTENT(fold, chunk) {
    const message = fold.target(null, chunk);
    const stepId = chunk.stepId ?? chunk.messageId;
    const part = fold.part(message, keyOf({ type: "thinking", stepId }), () => ({ type: "thinking", stepId, content: "" }));
    part.content += textOr(chunk.delta);
  },

  TOOL_CALL_START(fold, chunk) {
    if (!isText(chunk.toolCallId)) return;
    const known = fold.calls.get(chunk.toolCallId);
    if (known) {
      // an approved call is named again when it is executed
      Object.assign(known.part, { arguments: "", state: "awaiting-input" });
      fold.touched.add(known.message.id);
      return;
    }
    const message = fold.target(chunk.parentMessageId, chunk);
    const name = textOr(chunk.toolCallName) || textOr(chunk.toolName) || "tool";
    fold.add(message, { type: "tool-call", id: chunk.toolCallId, name, arguments: "", state: "awaiting-input" });
  },

  TOOL_CALL_ARGS(fold, chunk) {
    onToolCall(fold, chunk, (part) => {
      part.arguments += textOr(chunk.delta);
      part.state = "input-streaming";
    });
  },

  TOOL_CALL_END(fold, chunk) {
    onToolCall(fold, chunk, (part) => {
      if (chunk.input !== undefined) part.input = chunk.input;
      if (part.state === "awaiting-input" || part.state === "input-streaming") part.state = "input-complete";
    });
  },

  TOOL_CALL_RESULT(fold, chunk) {
    onToolCall(fold, chunk, (part) => {
      part.output = parsed(chunk.content);
      part.state = chunk.state === "output-error" ? "error" : "complete";
    });
  },

  MESSAGES_SNAPSHOT(fold, chunk) {
    fold.replace(chunk.messages);
  },

  CUSTOM(fold, chunk) {
    const step = isText(chunk.name) && Object.hasOwn(CUSTOM_STEPS, chunk.name) ? CUSTOM_STEPS[chunk.name] : null;
    step?.(fold, recordOr(chunk.value));
  },
};

const CUSTOM_STEPS = {
  "approval-requested"(fold, { toolCallId, toolName, input, approval }) {
    if (!fold.calls.has(toolCallId)) STEPS.TOOL_CALL_START(fold, { toolCallId, toolName });
    onToolCall(fold, { toolCallId }, (part) => {
      Object.assign(part, { state: "approval-requested", approval: { ...recordOr(approval), needsApproval: true } });
      if (input !== undefined) part.input = input;
    });
  },

  "durable-chat.turn-queued"(fold, { runId, message: given, turns }) {
    const message = readMessage(given, null);
    if (!message?.id || fold.message(message.id)) return;
    fold.dequeue(message.id);
    const run = runId ?? message.id;
    if (fold.queued.has(run)) fold.dequeue(fold.queued.get(run).message.id);
    fold.queued.set(run, { message, turns: textOr(turns) });
    fold.waiting.set(message.id, run);
    fold.touched.add(message.id);
  },

  "durable-chat.turn-taken-back"(fold, { runId }) {
    const turn = fold.queued.get(runId);
    if (!turn) return;
    fold.touched.add(turn.message.id);
    fold.dequeue(turn.message.id);
  },

  "durable-chat.turn-advanced"(fold, { runId, turns }) {
    const turn = fold.queued.get(runId);
    if (!turn) return;
    fold.touched.add(turn.message.id);
    turn.turns = textOr(turns);
    fold.queued.delete(runId);
    fold.queued = new Map([[runId, turn], ...fold.queued]);
  },

  "durable-chat.run-resumed"(fold, { runId, how }) {
    if (!isText(runId)) return;
    fold.runs.add(runId);
    fold.resumed.set(runId, how === "retry" ? how : "continue");
    if (fold.current) fold.notes.delete(fold.current.id);
    if (fold.current) fold.touched.add(fold.current.id);
  },

  "durable-chat.context-summary"(fold, value) {
    fold.summarize(value);
  },

  "structured-output.start"(fold, { messageId }) {
    const message = fold.open(messageId, "assistant");
    fold.structured.add(message.id);
    appendStructured(fold, message, "");
  },

  "structured-output.complete"(fold, { messageId, object, raw }) {
    const message = fold.target(messageId, {});
    const part = appendStructured(fold, message, "");
    Object.assign(part, { status: "complete", data: object, raw: textOr(raw, part.raw) });
    fold.structured.delete(message.id);
  },
};

function onToolCall(fold, chunk, change) {
  const found = fold.calls.get(chunk.toolCallId);
  if (!found) return;
  change(found.part);
  fold.touched.add(found.message.id);
}

function appendStructured(fold, message, delta) {
  const part = fold.part(message, "structured-output", () => ({ type: "structured-output", status: "streaming", raw: "" }));
  part.raw += textOr(delta);
  return part;
}

function parsed(content) {
  try {
    return JSON.parse(content);
  } catch {
    return content;
  }
}

/** Returns the plain text of a message. */
export function textOf(message) {
  const texts = message.parts.filter((part) => part.type === "text");
  return texts.map((part) => part.content).join("");
}
