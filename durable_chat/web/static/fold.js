// Chunks folded to messages: the same transcript in every tab, whatever the moment it came.

/**
 * Mutable: everything. `messages` are UIMessages in order. `notes` says what became of a message (`{error}` or
 * `{stopped}`), by message id. `queued` holds turns that wait, `{message, error?}` by run id. `runs` are those
 * without an end. `touched` collects the ids to paint again; whoever paints empties it.
 */
export class Fold {
  constructor(messages = [], activeRun = null) {
    this.messages = [];
    this.notes = new Map();
    this.queued = new Map();
    this.runs = new Set();
    this.touched = new Set();
    this.ids = new Map();
    this.current = null; // the assistant message that chunks without a message id belong to
    this.structured = new Set(); // ids whose text is JSON
    this.#replace(messages);
    if (activeRun?.runId) this.runs.add(activeRun.runId);
  }

  get generating() {
    return this.runs.size > 0;
  }

  message(id) {
    return this.ids.get(id);
  }

  /** Folds one chunk. Unknown types change nothing. */
  apply(chunk) {
    const step = Object.hasOwn(STEPS, chunk.type) && STEPS[chunk.type];
    if (step) step(this, { ...chunk.metadata?.tanstack, ...chunk });
  }

  #replace(messages) {
    for (const id of this.ids.keys()) this.touched.add(id);
    this.messages = messages.map((message) => ({ ...message, parts: structuredClone(message.parts ?? []) }));
    this.ids = new Map(this.messages.map((message) => [message.id, message]));
    for (const id of this.ids.keys()) this.touched.add(id);
    for (const id of this.notes.keys()) if (!this.ids.has(id)) this.notes.delete(id);
    for (const [run, turn] of this.queued) if (this.ids.has(turn.message?.id)) this.queued.delete(run);
    for (const message of this.messages) this.#noteFromMetadata(message);
    this.current = null;
  }

  replace(messages) {
    this.#replace(messages);
  }

  #noteFromMetadata(message) {
    const { error, stopped } = message.metadata?.tanstack ?? {};
    if (error?.message) this.notes.set(message.id, { error });
    else if (stopped) this.notes.set(message.id, { stopped: true });
  }

  open(id, role) {
    let message = this.ids.get(id);
    if (!message) {
      message = { id, role, parts: [] };
      this.messages.push(message);
      this.ids.set(id, message);
    }
    if (message.role === "assistant") {
      if (this.current) this.touched.add(this.current.id); // it is not the one that grows any longer
      this.current = message;
    }
    this.touched.add(id);
    return message;
  }

  /** The assistant message that a chunk with this or without any message id belongs to. */
  target(id, chunk) {
    const known = id && this.ids.get(id);
    const message = known || this.current || this.open(id || `answer-${chunk.runId ?? this.messages.length}`, "assistant");
    this.touched.add(message.id);
    return message;
  }

  /** The tool call of this id, newest message first. */
  toolCall(id) {
    for (let i = this.messages.length - 1; i >= 0; i--) {
      const part = this.messages[i].parts.find((part) => part.type === "tool-call" && part.id === id);
      if (part) return { message: this.messages[i], part };
    }
    return null;
  }

  endRun(runId, note) {
    if (runId && this.queued.has(runId) && !this.runs.has(runId)) return this.#endQueued(runId, note);
    const other = runId && !this.runs.has(runId) && this.generating;
    if (other) return;
    if (runId) this.runs.delete(runId);
    else this.runs.clear();
    const message = this.current ?? this.messages.at(-1);
    if (message && note) this.notes.set(message.id, note);
    if (message) this.touched.add(message.id);
    if (!this.generating) this.current = null;
  }

  #endQueued(runId, note) {
    const turn = this.queued.get(runId);
    this.touched.add(turn.message.id);
    if (note) Object.assign(turn, note);
    else this.queued.delete(runId);
  }
}

const STEPS = {
  RUN_STARTED(fold, chunk) {
    fold.runs.clear(); // one run at a time: an older one without an end is over
    fold.runs.add(chunk.runId);
    fold.queued.delete(chunk.runId);
    if (fold.current) fold.touched.add(fold.current.id);
    fold.current = null;
    const last = fold.messages.at(-1);
    if (last?.role === "user" && fold.notes.delete(last.id)) fold.touched.add(last.id);
  },

  RUN_FINISHED(fold, chunk) {
    fold.endRun(chunk.runId, chunk.stopped ? { stopped: true } : null);
  },

  RUN_ERROR(fold, chunk) {
    const message = chunk.message || chunk.error?.message || "The answer failed.";
    fold.endRun(chunk.runId, { error: { message, code: chunk.code ?? chunk.error?.code } });
  },

  TEXT_MESSAGE_START(fold, chunk) {
    const role = chunk.role === "user" || chunk.role === "system" ? chunk.role : "assistant";
    const message = fold.open(chunk.messageId, role);
    if (role === "user") message.parts = message.parts.filter((part) => part.type !== "text"); // its text follows
    for (const [run, turn] of fold.queued) if (turn.message?.id === chunk.messageId) fold.queued.delete(run);
  },

  TEXT_MESSAGE_CONTENT(fold, chunk) {
    const message = fold.target(chunk.messageId, chunk);
    if (fold.structured.has(message.id)) return appendStructured(message, chunk.delta);
    const last = message.parts.at(-1);
    if (last?.type === "text") last.content += chunk.delta ?? "";
    else message.parts.push({ type: "text", content: chunk.delta ?? "" });
  },

  REASONING_MESSAGE_CONTENT(fold, chunk) {
    const message = fold.target(null, chunk);
    const stepId = chunk.stepId ?? chunk.messageId;
    const known = message.parts.findLast((part) => part.type === "thinking" && part.stepId === stepId);
    if (known) known.content += chunk.delta ?? "";
    else message.parts.push({ type: "thinking", stepId, content: chunk.delta ?? "" });
  },

  TOOL_CALL_START(fold, chunk) {
    const known = fold.toolCall(chunk.toolCallId);
    if (known) {
      // named again where it is carried out, once it was approved
      Object.assign(known.part, { arguments: "", state: "awaiting-input" });
      fold.touched.add(known.message.id);
      return;
    }
    const message = fold.target(chunk.parentMessageId, chunk);
    const name = chunk.toolCallName ?? chunk.toolName ?? "tool";
    message.parts.push({ type: "tool-call", id: chunk.toolCallId, name, arguments: "", state: "awaiting-input" });
  },

  TOOL_CALL_ARGS(fold, chunk) {
    onToolCall(fold, chunk, (part) => {
      part.arguments += chunk.delta ?? "";
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
    fold.replace(chunk.messages ?? []);
  },

  CUSTOM(fold, chunk) {
    CUSTOM_STEPS[chunk.name]?.(fold, chunk.value ?? {});
  },
};

const CUSTOM_STEPS = {
  "approval-requested"(fold, { toolCallId, toolName, input, approval }) {
    if (!fold.toolCall(toolCallId)) STEPS.TOOL_CALL_START(fold, { toolCallId, toolName });
    onToolCall(fold, { toolCallId }, (part) => {
      Object.assign(part, { state: "approval-requested", approval: { ...approval, needsApproval: true } });
      if (input !== undefined) part.input = input;
    });
  },

  "durable-chat.turn-queued"(fold, { runId, message }) {
    if (!message || fold.message(message.id)) return;
    fold.queued.set(runId ?? message.id, { message });
    fold.touched.add(message.id);
  },

  "structured-output.start"(fold, { messageId }) {
    const message = fold.open(messageId, "assistant");
    fold.structured.add(messageId);
    appendStructured(message, "");
  },

  "structured-output.complete"(fold, { messageId, object, raw }) {
    const message = fold.target(messageId, {});
    appendStructured(message, "");
    const part = message.parts.findLast((part) => part.type === "structured-output");
    Object.assign(part, { status: "complete", data: object, raw: raw ?? part.raw });
    fold.structured.delete(message.id);
  },
};

function onToolCall(fold, chunk, change) {
  const found = fold.toolCall(chunk.toolCallId);
  if (!found) return;
  change(found.part);
  fold.touched.add(found.message.id);
}

function appendStructured(message, delta) {
  const known = message.parts.findLast((part) => part.type === "structured-output");
  if (known) known.raw += delta ?? "";
  else message.parts.push({ type: "structured-output", status: "streaming", raw: delta ?? "" });
}

function parsed(content) {
  try {
    return JSON.parse(content);
  } catch {
    return content;
  }
}

/** The plain text of a message. */
export function textOf(message) {
  const texts = (message.parts ?? []).filter((part) => part.type === "text");
  return texts.map((part) => part.content ?? part.text ?? "").join("");
}
