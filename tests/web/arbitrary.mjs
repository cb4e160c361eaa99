// Arbitrary JSON for property tests: any value at any place, often close to a valid one. Seeded, so that a failure
// can be reproduced.

/** Returns a generator of numbers from 0 up to `n`, the same for the same seed (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

const NAMES = ["toString", "__proto__", "constructor", "hasOwnProperty", "valueOf", "prototype", "", "m", "u", "a", "c", "r"];
const KEYS = [
  ...NAMES,
  ...["type", "id", "role", "parts", "content", "text", "delta", "messageId", "runId", "toolCallId", "toolCallName", "state"],
  ...["input", "output", "approval", "metadata", "tanstack", "error", "message", "messages", "name", "value", "stepId", "raw"],
  ...["object", "source", "mimeType", "arguments", "stopped", "code", "parentMessageId", "toolCalls", "function", "data"],
];
const TYPES = [
  ...["RUN_STARTED", "RUN_FINISHED", "RUN_ERROR", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"],
  ...["REASONING_MESSAGE_CONTENT", "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"],
  ...["MESSAGES_SNAPSHOT", "CUSTOM", "CUSTOM", "MESSAGES_SNAPSHOT", ...NAMES],
];
const PARTS = ["text", "thinking", "tool-call", "tool-result", "structured-output", "image", "document", "ui-resource", ...NAMES];
const CUSTOMS = ["approval-requested", "durable-chat.turn-queued", "structured-output.start", "structured-output.complete", ...NAMES];

/** Any JSON value. */
export function anything(next, depth = 3) {
  const kind = next(depth > 0 ? 9 : 6);
  if (kind === 0) return null;
  if (kind === 1) return next(2) === 0;
  if (kind === 2) return [0, -1, 5, 1e300, 0.5][next(5)];
  if (kind < 6) return NAMES[next(NAMES.length)];
  if (kind === 6) return Array.from({ length: next(4) }, () => anything(next, depth - 1));
  // Parsed from text, as JSON is, so that `__proto__` is an ordinary key.
  const pairs = Array.from({ length: next(6) }, () => [KEYS[next(KEYS.length)], anything(next, depth - 1)]);
  return JSON.parse(`{${pairs.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`);
}

const or = (next, value) => (next(6) === 0 ? anything(next) : value);

function part(next) {
  const given = { ...anything(next), type: or(next, PARTS[next(PARTS.length)]), id: or(next, NAMES[next(NAMES.length)]) };
  if (next(2)) given.content = or(next, "some *text*");
  if (next(3) === 0) given.source = or(next, { type: or(next, "url"), value: or(next, "x"), mimeType: or(next, "image/png") });
  return or(next, given);
}

export function message(next) {
  const given = { ...anything(next), id: or(next, NAMES[next(NAMES.length)]), role: or(next, ["user", "assistant", "tool"][next(3)]) };
  if (next(4)) given.parts = or(next, Array.from({ length: next(4) }, () => part(next)));
  return or(next, given);
}

/** Returns a log's content: mostly chunks with an invalid field. */
export function chunk(next) {
  const id = () => or(next, NAMES[next(NAMES.length)]);
  const given = { ...anything(next), type: or(next, TYPES[next(TYPES.length)]) };
  for (const key of ["messageId", "toolCallId", "runId", "stepId", "delta"]) if (next(3)) given[key] = id();
  if (next(2)) given.role = or(next, ["user", "assistant"][next(2)]);
  if (given.type === "MESSAGES_SNAPSHOT") given.messages = or(next, Array.from({ length: next(5) }, () => message(next)));
  if (given.type === "CUSTOM") given.name = or(next, CUSTOMS[next(CUSTOMS.length)]);
  if (given.type === "CUSTOM") given.value = or(next, { ...given, message: message(next), approval: anything(next) });
  return or(next, given);
}
