// Folding arbitrary JSON at any place in a log takes linear time.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Fold, textOf } from "../../durable_chat/web/static/fold.js";
import { anything, chunk, message, random } from "./arbitrary.mjs";
import { assertLinear } from "./growth.mjs";

const LOGS = 3_000;
const CHUNKS = 40;

/** The invariants that all drawing needs. */
function assertDrawable(fold) {
  assert.equal(fold.messages.length, fold.ids.size);
  for (const message of [...fold.messages, ...[...fold.queued.values()].map((turn) => turn.message)]) {
    assert.equal(typeof message.id, "string");
    assert.ok(["user", "assistant", "system"].includes(message.role));
    assert.equal(typeof textOf(message), "string");
    for (const part of message.parts) assert.equal(typeof part.type, "string");
  }
  for (const { error } of fold.notes.values()) if (error) assert.equal(typeof error.message, "string");
}

test("no log makes a fold throw, and what it folds to can be drawn", () => {
  for (let seed = 1; seed <= LOGS; seed++) {
    const next = random(seed);
    const fold = new Fold(next(2) ? Array.from({ length: next(4) }, () => message(next)) : anything(next), anything(next));
    for (let i = 0; i < CHUNKS; i++) {
      const given = chunk(next);
      try {
        fold.apply(given);
        assertDrawable(fold);
      } catch (error) {
        throw new Error(`seed ${seed}, chunk ${i}: ${JSON.stringify(given)}`, { cause: error });
      }
    }
  }
});

test("after any log, a turn is folded as ever", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const next = random(seed);
    const fold = new Fold();
    for (let i = 0; i < CHUNKS; i++) fold.apply(chunk(next));
    for (const given of [
      { type: "MESSAGES_SNAPSHOT", messages: [{ id: "new-u", role: "user", parts: [{ type: "text", content: "hello" }] }] },
      { type: "RUN_STARTED", runId: "new-r" },
      { type: "TEXT_MESSAGE_START", messageId: "new-a", role: "assistant" },
      { type: "TEXT_MESSAGE_CONTENT", messageId: "new-a", delta: "Good morning." },
      { type: "RUN_FINISHED", runId: "new-r" },
    ]) fold.apply(given);
    assert.deepEqual(fold.messages.map(textOf), ["hello", "Good morning."]);
    assert.equal(fold.generating, false);
  }
});

for (const [name, part] of [
  ["a list as type", { type: [] }],
  ["a number as thoughts", { type: "thinking", content: 5 }],
  ["a text without text", { type: "text" }],
  ["a call without an id", { type: "tool-call", name: "f" }],
  ["a picture without a source", { type: "image" }],
  ["null", null],
]) {
  test(`a bad part keeps its place, and the others are folded: ${name}`, () => {
    const good = { type: "text", content: "good" };
    const [folded] = new Fold([{ id: "m", role: "assistant", parts: [good, part, good] }]).messages;
    assert.deepEqual(folded.parts.map(({ type }) => type), ["text", "unreadable", "text"]);
  });
}

test("messages in AG-UI's own shape are shown like others", () => {
  const call = { id: "c", type: "function", function: { name: "count", arguments: "{}" } };
  const fold = new Fold();
  fold.apply({
    type: "MESSAGES_SNAPSHOT",
    messages: [
      { id: "u", role: "user", content: [{ type: "text", text: "hello" }] },
      { id: "a", role: "assistant", content: "Let me see.", toolCalls: [call] },
      { id: "t", role: "tool", toolCallId: "c", content: "7" },
    ],
  });
  assert.deepEqual(fold.messages.map(({ id }) => id), ["u", "a"]);
  assert.deepEqual(fold.messages.map(textOf), ["hello", "Let me see."]);
  const { name, state, output } = fold.message("a").parts[1];
  assert.deepEqual([name, state, output], ["count", "complete", "7"]);
});

const open = (messageId, role = "assistant") => ({ type: "TEXT_MESSAGE_START", messageId, role });
const thought = (stepId) => ({ type: "REASONING_MESSAGE_CONTENT", stepId, delta: "x" });
const queued = (id) => ({ type: "CUSTOM", name: "durable-chat.turn-queued", value: { runId: `r${id}`, message: { id, role: "user", parts: [] } } });
const times = (n, make) => Array.from({ length: n }, (_, i) => make(`${i}`));

for (const [name, log] of [
  ["thoughts of many steps", (n) => [open("a"), ...times(n, thought), ...times(n, thought)]],
  ["results without a call", (n) => [...times(n, (id) => open(id)), ...times(n, (toolCallId) => ({ type: "TOOL_CALL_RESULT", toolCallId, content: "1" }))]],
  ["many calls and their results", (n) => [open("a"), ...times(n, (toolCallId) => ({ type: "TOOL_CALL_START", toolCallId })), ...times(n, (toolCallId) => ({ type: "TOOL_CALL_RESULT", toolCallId, content: "1" }))]],
  ["many turns that wait, and begin", (n) => [...times(n, queued), ...times(n, (id) => open(id, "user"))]],
  ["many empty snapshots while turns wait", (n) => [...times(n, queued), ...times(n, () => ({ type: "MESSAGES_SNAPSHOT", messages: [] }))]],
  ["one user message begun again and again", (n) => [
    { type: "MESSAGES_SNAPSHOT", messages: [{ id: "u", role: "user", parts: times(n, () => ({ type: "image", source: {} })) }] },
    ...times(n, () => open("u", "user")),
  ]],
  ["structured output after many parts", (n) => [
    { type: "CUSTOM", name: "structured-output.start", value: { messageId: "a" } },
    ...times(n, (toolCallId) => ({ type: "TOOL_CALL_START", toolCallId, parentMessageId: "a" })),
    ...times(n, () => ({ type: "TEXT_MESSAGE_CONTENT", messageId: "a", delta: "x" })),
  ]],
]) {
  test(`a log 32 times as long takes about 32 times as long: ${name}`, () => {
    assertLinear((n) => {
      const chunks = log(n);
      return () => {
        const fold = new Fold();
        for (const given of chunks) fold.apply(given);
      };
    }, 1_000);
  });
}
