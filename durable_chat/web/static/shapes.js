// Validates the values of a log: any JSON value anywhere becomes something that can be folded and drawn.

/** An invalid part. It keeps its place, so that the user sees that something is missing. */
export const UNREADABLE = "unreadable";

const ROLES = new Set(["user", "assistant", "system"]);
const KINDS_OF_MEDIA = ["image", "audio", "video", "document"];
// The required fields of each type of part. Other types are kept as they are.
const CHECKS = new Map([
  ["text", (part) => isText(part.content ?? part.text)],
  ["thinking", (part) => isText(part.content)],
  ["tool-call", (part) => isText(part.id)],
  ["structured-output", (part) => isText(part.raw ?? "")],
  ...KINDS_OF_MEDIA.map((kind) => [kind, (part) => isRecord(part.source)]),
]);

export const isText = (value) => typeof value === "string";
export const isRecord = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Returns the value if it is text, else the fallback. */
export const textOr = (value, other = "") => (isText(value) ? value : other);

/** Returns the value if it is an object, else an empty one. */
export const recordOr = (value) => (isRecord(value) ? value : {});

export const listOr = (value) => (Array.isArray(value) ? value : []);

/** Returns the name of a part's file, or null. It is in the metadata, as in AG-UI and TanStack, or in the part itself. */
export function nameOf(part) {
  const { filename, name } = recordOr(part.metadata);
  return [filename, name, part.filename, part.name].find((given) => textOr(given) !== "") ?? null;
}

/** Returns a message that can be drawn, or null if the value is not a message. The value is not changed. */
export function readMessage(value, name) {
  if (!isRecord(value)) return null;
  const role = ROLES.has(value.role) ? value.role : "assistant";
  return { ...value, id: isText(value.id) && value.id ? value.id : name, role, parts: partsOf(value) };
}

/** Returns messages with unique ids, in order. The last message with an id replaces the first. */
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

/** AG-UI's row with a tool's result is not a message: the result belongs to its call. */
function answer(calls, { toolCallId, content, error }) {
  const call = calls.get(toolCallId);
  if (call) Object.assign(call, { output: content, state: error ? "error" : "complete" });
  return null;
}

function partsOf({ parts, content, toolCalls }) {
  if (parts === undefined || parts === null) return [...contentOf(content), ...listOr(toolCalls).map(readCall)];
  return Array.isArray(parts) ? parts.map(readPart) : [{ type: UNREADABLE }];
}

/** Returns the content of a message without parts. In AG-UI it is a text or a list of parts. */
function contentOf(content) {
  if (isText(content)) return content ? [{ type: "text", content }] : [];
  return listOr(content).map(readPart);
}

function readCall(call) {
  const { name, arguments: given } = recordOr(recordOr(call).function);
  return readPart({ type: "tool-call", id: recordOr(call).id, name, arguments: given, state: "input-complete" });
}

/** Returns a copy of the part, or an unreadable part in its place. */
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

const WHOLE = new Set(["", "stop", "tool_calls"]); // the finish reasons of a complete answer

/** Returns the note on a run's end from `metadata.durableChat.run`, or null for an ordinary end. */
export function noteOf(run) {
  const { status, error, code, finishReason } = recordOr(run);
  if (status === "stopped") return { stopped: true };
  if (status === "failed" || status === "interrupted") return { error: { message: textOr(error) || "The answer failed.", code } };
  const reason = textOr(finishReason);
  return WHOLE.has(reason) ? null : { cut: reason };
}
