// What may stand in a log, read with care: any JSON value at any place becomes something that can be folded and drawn.

/** A part that nothing can be made of. It keeps its place, so that a reader sees that something is missing. */
export const UNREADABLE = "unreadable";

const ROLES = new Set(["user", "assistant", "system"]);
const KINDS_OF_MEDIA = ["image", "audio", "video", "document"];
// What each type of part must have; other types are kept as they are.
const CHECKS = new Map([
  ["text", (part) => isText(part.content ?? part.text)],
  ["thinking", (part) => isText(part.content)],
  ["tool-call", (part) => isText(part.id)],
  ["structured-output", (part) => isText(part.raw ?? "")],
  ...KINDS_OF_MEDIA.map((kind) => [kind, (part) => isRecord(part.source)]),
]);

export const isText = (value) => typeof value === "string";
export const isRecord = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The value where it is text, else the other. */
export const textOr = (value, other = "") => (isText(value) ? value : other);

/** The value where it is an object, else an empty one. */
export const recordOr = (value) => (isRecord(value) ? value : {});

export const listOr = (value) => (Array.isArray(value) ? value : []);

/** The name of a part's file, or null: in its metadata, as AG-UI and TanStack have it, or beside it. */
export function nameOf(part) {
  const { filename, name } = recordOr(part.metadata);
  return [filename, name, part.filename, part.name].find((given) => textOr(given) !== "") ?? null;
}

/** A message that can be drawn, whatever was given; null for what is none. The value itself is left as it is. */
export function readMessage(value, name) {
  if (!isRecord(value)) return null;
  const role = ROLES.has(value.role) ? value.role : "assistant";
  return { ...value, id: isText(value.id) && value.id ? value.id : name, role, parts: partsOf(value) };
}

/** Messages with an id each, in order; of those with the same id, the last counts, in the place of the first. */
export function readMessages(value) {
  const messages = new Map();
  const calls = new Map();
  listOr(value).forEach((given, i) => {
    const message = isRecord(given) && given.role === "tool" && !given.parts ? answer(calls, given) : readMessage(given, `message-${i}`);
    if (!message) return;
    messages.set(message.id, message);
    for (const part of message.parts) if (part.type === "tool-call") calls.set(part.id, part);
  });
  return [...messages.values()];
}

/** A row of AG-UI with a tool's result is no message: the result belongs to its call. */
function answer(calls, { toolCallId, content, error }) {
  const call = calls.get(toolCallId);
  if (call) Object.assign(call, { output: content, state: error ? "error" : "complete" });
  return null;
}

function partsOf({ parts, content, toolCalls }) {
  if (parts === undefined || parts === null) return [...contentOf(content), ...listOr(toolCalls).map(readCall)];
  return Array.isArray(parts) ? parts.map(readPart) : [{ type: UNREADABLE }];
}

/** What messages without parts hold: AG-UI's are a text or a list of parts. */
function contentOf(content) {
  if (isText(content)) return content ? [{ type: "text", content }] : [];
  return listOr(content).map(readPart);
}

function readCall(call) {
  const { name, arguments: given } = recordOr(recordOr(call).function);
  return readPart({ type: "tool-call", id: recordOr(call).id, name, arguments: given, state: "input-complete" });
}

/** A copy of the part, or one that says it cannot be read. */
function readPart(value) {
  if (!isRecord(value) || !isText(value.type)) return { type: UNREADABLE };
  const check = CHECKS.get(value.type);
  if (check && !check(value)) return { type: UNREADABLE };
  const part = { ...value };
  if (part.type === "text") part.content ??= part.text;
  if (part.type === "tool-call") Object.assign(part, { name: textOr(part.name, "tool"), arguments: textOr(part.arguments) });
  if (part.type === "structured-output") part.raw = textOr(part.raw);
  return part;
}

const WHOLE = new Set(["", "stop", "tool_calls"]); // the finish reasons of an answer that was not cut

/** What there is to say of a run's end, as the server tells it in `metadata.durableChat.run`; null for an ordinary one. */
export function noteOf(run) {
  const { status, error, code, finishReason } = recordOr(run);
  if (status === "stopped") return { stopped: true };
  if (status === "failed" || status === "interrupted") return { error: { message: textOr(error) || "The answer failed.", code } };
  const reason = textOr(finishReason);
  return WHOLE.has(reason) ? null : { cut: reason };
}
