// Chunks folded to messages: what a reader of the log must see, whatever it read before.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Fold, textOf } from "../../durable_chat/web/static/fold.js";

const started = (runId) => ({ type: "RUN_STARTED", threadId: "s", runId });
const finished = (runId, tanstack = { finishReason: "stop" }) => ({ type: "RUN_FINISHED", threadId: "s", runId, metadata: { tanstack } });
const failed = (runId, message) => ({ type: "RUN_ERROR", runId, message, code: "a_code" });
const open = (messageId, role = "assistant") => ({ type: "TEXT_MESSAGE_START", messageId, role });
const delta = (messageId, text) => ({ type: "TEXT_MESSAGE_CONTENT", messageId, delta: text });
const close = (messageId) => ({ type: "TEXT_MESSAGE_END", messageId });
const thought = (messageId, text) => ({ type: "REASONING_MESSAGE_CONTENT", messageId, delta: text });
const call = (toolCallId, parentMessageId) => ({ type: "TOOL_CALL_START", toolCallId, toolCallName: "count", parentMessageId });
const args = (toolCallId, text) => ({ type: "TOOL_CALL_ARGS", toolCallId, delta: text });
const called = (toolCallId) => ({ type: "TOOL_CALL_END", toolCallId });
const result = (toolCallId, content, more = {}) => ({ type: "TOOL_CALL_RESULT", messageId: `r-${toolCallId}`, toolCallId, content, ...more });
const snapshot = (...messages) => ({ type: "MESSAGES_SNAPSHOT", messages });
const custom = (name, value) => ({ type: "CUSTOM", name, value });

const said = (id, role, text) => ({ id, role, parts: [{ type: "text", content: text }] });
const echo = (id, text) => [open(id, "user"), delta(id, text), close(id)];
const answered = (runId, id, ...texts) => [started(runId), open(id), ...texts.map((text) => delta(id, text)), close(id), finished(runId)];

const TURN = [...echo("u1", "hello"), ...answered("r1", "a1", "Good ", "morning.")];

function folded(chunks, fold = new Fold()) {
  for (const chunk of chunks) fold.apply(chunk);
  return fold;
}

test("a turn", () => {
  const fold = folded(TURN);
  assert.deepEqual(fold.messages, [said("u1", "user", "hello"), said("a1", "assistant", "Good morning.")]);
  assert.equal(fold.generating, false);
  assert.equal(textOf(fold.message("a1")), "Good morning.");
});

test("it generates from the start of a run to its end", () => {
  const fold = folded(TURN.slice(0, 4));
  assert.equal(fold.generating, true);
  folded(TURN.slice(4), fold);
  assert.equal(fold.generating, false);
});

test("a snapshot and what comes after it are the whole", () => {
  const whole = folded([...TURN, ...echo("u2", "more"), ...answered("r2", "a2", "Yes.")]);
  const snapshotted = new Fold(folded(TURN).messages);
  folded([...echo("u2", "more"), ...answered("r2", "a2", "Yes.")], snapshotted);
  assert.deepEqual(snapshotted.messages, whole.messages);
});

test("a summary for the model holds until what it replaces changes", () => {
  const summary = custom("durable-chat.context-summary", { upTo: "a1", text: "They said hello." });
  const shown = [said("u1", "user", "hello"), said("a1", "assistant", "Good morning.")];
  const fold = folded([...TURN, summary]);
  assert.deepEqual(fold.summary, { upTo: "a1", text: "They said hello.", failure: false });
  folded([snapshot(...shown, said("u2", "user", "more"))], fold);
  assert.equal(fold.summary.upTo, "a1");
  assert.equal(fold.message("a1").parts.length, 1);
  folded([snapshot(said("u1", "user", "hi"))], fold);
  assert.equal(fold.summary, null);
  assert.equal(new Fold(shown, null, { upTo: "a1", text: "T" }).summary.text, "T");
  assert.equal(folded([custom("durable-chat.context-summary", { upTo: 1 })]).summary, null);
});

test("a reload in the middle of a run replays that run", () => {
  const fold = new Fold([said("u1", "user", "hello")], { runId: "r1" });
  assert.equal(fold.generating, true);
  folded(TURN.slice(3), fold);
  assert.deepEqual(fold.messages, folded(TURN).messages);
  assert.equal(fold.generating, false);
});

test("an echo of a message that is known does not double it", () => {
  const fold = new Fold([said("u1", "user", "hello")]);
  folded(TURN, fold);
  assert.deepEqual(fold.messages, folded(TURN).messages);
});

test("the messages given to it are not changed", () => {
  const given = [said("u1", "user", "hello"), said("a1", "assistant", "Half")];
  const before = structuredClone(given);
  folded([started("r2"), delta("a1", " more")], new Fold(given));
  assert.deepEqual(given, before);
});

test("thinking is a part of its own, before the text", () => {
  const fold = folded([started("r"), open("a"), thought("t1", "Hm, "), thought("t1", "so."), thought("t2", "And?"), delta("a", "Well.")]);
  const parts = fold.message("a").parts.map(({ type, content }) => [type, content]);
  assert.deepEqual(parts, [["thinking", "Hm, so."], ["thinking", "And?"], ["text", "Well."]]);
});

test("a tool call, state by state", () => {
  const fold = folded([started("r"), open("a"), call("c", "a")]);
  const [part] = fold.message("a").parts;
  assert.deepEqual([part.name, part.state], ["count", "awaiting-input"]);
  folded([args("c", '{"text":'), args("c", '"x"}')], fold);
  assert.deepEqual([part.arguments, part.state], ['{"text":"x"}', "input-streaming"]);
  folded([called("c")], fold);
  assert.equal(part.state, "input-complete");
  folded([result("c", '{"words":1}')], fold);
  assert.deepEqual([part.output, part.state], [{ words: 1 }, "complete"]);
  folded([delta("a", "One word.")], fold);
  assert.deepEqual(fold.message("a").parts.map(({ type }) => type), ["tool-call", "text"]);
});

test("text after a tool call is a part after it", () => {
  const fold = folded([started("r"), open("a"), delta("a", "Let me see. "), call("c", "a"), called("c"), delta("a", "Done.")]);
  assert.deepEqual(fold.message("a").parts.map((part) => part.content ?? part.id), ["Let me see. ", "c", "Done."]);
});

test("a tool's failure, and a result that is no JSON", () => {
  const fold = folded([started("r"), open("a"), call("c", "a"), called("c"), result("c", "no such file", { state: "output-error" })]);
  const [part] = fold.message("a").parts;
  assert.deepEqual([part.output, part.state], ["no such file", "error"]);
});

test("a result in a later run finds its call, and one without a call changes nothing", () => {
  const fold = folded([started("r"), open("a"), call("c", "a"), called("c"), finished("r"), started("r2"), open("b")]);
  folded([result("c", "1"), result("unknown", "2"), args("unknown", "{")], fold);
  assert.equal(fold.message("a").parts[0].output, 1);
  assert.deepEqual(fold.message("b").parts, []);
});

test("a call that is told twice is one call", () => {
  const fold = folded([started("r"), open("a"), call("c", "a"), called("c"), call("c", "a")]);
  assert.equal(fold.message("a").parts.length, 1);
});

test("an approval is asked for, whether its call was told or not", () => {
  const value = { toolCallId: "c", toolName: "save", input: { note: "x" }, approval: { id: "ap", needsApproval: true } };
  for (const told of [[call("c", "a"), called("c")], []]) {
    const fold = folded([started("r"), open("a"), ...told, custom("approval-requested", value)]);
    const { state, approval, input } = fold.message("a").parts[0];
    assert.deepEqual([state, approval.id, input], ["approval-requested", "ap", { note: "x" }]);
  }
});

test("an error belongs to the answer it cut", () => {
  const fold = folded([...TURN, ...echo("u2", "more"), started("r2"), open("a2"), delta("a2", "Half"), failed("r2", "It broke.")]);
  assert.deepEqual(fold.notes.get("a2").error, { message: "It broke.", code: "a_code" });
  assert.equal(fold.notes.has("a1"), false);
  assert.equal(fold.generating, false);
  assert.equal(textOf(fold.message("a2")), "Half");
});

test("an error before any answer belongs to the question, until it is tried again", () => {
  const fold = folded([...echo("u1", "hello"), started("r1"), failed("r1", "It broke.")]);
  assert.equal(fold.notes.get("u1").error.message, "It broke.");
  folded([started("r2")], fold);
  assert.equal(fold.notes.has("u1"), false);
});

test("an error of a run that is over, or of another one, ends nothing", () => {
  const fold = folded([...echo("u1", "hello"), started("r1"), open("a1"), failed("another", "It broke.")]);
  assert.equal(fold.generating, true);
  assert.equal(fold.notes.size, 0);
});

test("a stopped answer says so", () => {
  const fold = folded([...TURN.slice(0, 5), finished("r1", { finishReason: "stop", stopped: true })]);
  assert.equal(fold.notes.get("a1").stopped, true);
  assert.equal(fold.generating, false);
});

test("a new run ends one that has no end", () => {
  const fold = folded([started("r1"), open("a1"), delta("a1", "Half"), started("r2"), open("a2"), finished("r2")]);
  assert.equal(fold.generating, false);
});

test("a snapshot in the log takes the place of everything, and only what changed for good is gone", () => {
  const fold = folded([...TURN, snapshot(said("u9", "user", "edited"))]);
  assert.deepEqual(fold.messages, [said("u9", "user", "edited")]);
  assert.deepEqual([fold.message("u1"), fold.message("u9").role], [undefined, "user"]);
  folded(answered("r9", "a9", "Sure."), fold);
  assert.deepEqual(fold.messages.map(({ id }) => id), ["u9", "a9"]);
  assert.ok(["u1", "a1", "u9", "a9"].every((id) => fold.touched.has(id)), "whoever paints is told of all of them");
});

test("a snapshot tells how the answers in it ended", () => {
  const ended = (id, run) => ({ ...said(id, "assistant", "Half"), metadata: { durableChat: { run } } });
  const failed = { runId: "r1", status: "failed", error: "It broke.", code: "a_code" };
  const { notes } = new Fold([
    ended("a1", failed),
    ended("a2", { runId: "r2", status: "stopped", finishReason: "stop" }),
    ended("a3", { runId: "r3", status: "interrupted", error: "The answer was interrupted.", code: "interrupted" }),
    ended("a4", { runId: "r4", status: "finished", finishReason: "length" }),
    ended("a5", { runId: "r5", status: "finished", finishReason: "stop" }),
    ...[null, 5, [], { status: [], finishReason: {} }, { status: "failed", error: { toString: 1 } }].map((run, i) => ended(`b${i}`, run)),
  ]);
  assert.deepEqual(notes.get("a1").error, { message: "It broke.", code: "a_code" });
  assert.equal(notes.get("a2").stopped, true);
  assert.equal(notes.get("a3").error.message, "The answer was interrupted.");
  assert.equal(notes.get("a4").cut, "length");
  assert.deepEqual(["a5", "b0", "b1", "b2", "b3"].map((id) => notes.has(id)), [false, false, false, false, false]);
  assert.equal(notes.get("b4").error.message, "The answer failed.", "what it says is no text");
});

test("a tab that watched and one that was reloaded say the same of an end", () => {
  for (const end of [finished("r1", { finishReason: "length" }), finished("r1", { outcome: { type: "cancelled" } }), failed("r1", "It broke.")]) {
    const watching = folded([...TURN.slice(0, 5), end]).notes.get("a1");
    const { finishReason, outcome } = end.metadata?.tanstack ?? {};
    const status = end.type === "RUN_ERROR" ? "failed" : outcome ? "stopped" : "finished";
    const run = { runId: "r1", status, error: end.message, code: end.code, finishReason };
    assert.deepEqual(new Fold([{ ...said("a1", "assistant", "Half"), metadata: { durableChat: { run } } }]).notes.get("a1"), watching);
  }
});

test("a run that goes on after a crash is running until its end", () => {
  const fold = folded([started("r1"), open("a1"), delta("a1", "Hal"), custom("durable-chat.run-resumed", { runId: "r1", how: "continue" })]);
  assert.deepEqual([...fold.resumed], [["r1", "continue"]]);
  folded([delta("a1", "f."), finished("r1")], fold);
  assert.equal(textOf(fold.message("a1")), "Half.");
  assert.equal(fold.generating, false);
  assert.equal(fold.resumed.size, 0);
});

test("a turn that waits is listed until it begins", () => {
  const message = said("u2", "user", "more");
  const fold = folded([started("r1"), open("a1"), custom("durable-chat.turn-queued", { runId: "r2", message })]);
  assert.deepEqual([...fold.queued.values()].map((turn) => turn.message.id), ["u2"]);
  assert.equal(fold.message("u2"), undefined);
  folded([finished("r1"), snapshot(said("a1", "assistant", ""), message), started("r2"), open("a2")], fold);
  assert.equal(fold.queued.size, 0);
  assert.deepEqual(fold.messages.map(({ id }) => id), ["a1", "u2", "a2"]);
});

test("a turn that waits and fails keeps its message, with the error", () => {
  const message = said("u2", "user", "more");
  const fold = folded([started("r1"), custom("durable-chat.turn-queued", { runId: "r2", message }), failed("r2", "Interrupted.")]);
  assert.equal(fold.queued.get("r2").error.message, "Interrupted.");
  assert.equal(fold.generating, true, "the run before it goes on");
});

test("a waiting turn that is taken back goes, and one that is sent now comes first", () => {
  const queued = (n, more) => custom("durable-chat.turn-queued", { runId: `r${n}`, message: said(`u${n}`, "user", "more"), ...more });
  const fold = folded([started("r1"), open("a1"), queued(2), queued(3, { turns: "steer" }), queued(4)]);
  assert.deepEqual([...fold.queued.values()].map(({ turns }) => turns), ["", "steer", ""]);
  folded([custom("durable-chat.turn-taken-back", { runId: "r3", messageId: "u3" }), custom("durable-chat.turn-advanced", { runId: "r4", turns: "steer" })], fold);
  assert.deepEqual([...fold.queued.values()].map(({ message, turns }) => [message.id, turns]), [["u4", "steer"], ["u2", ""]]);
  folded([custom("durable-chat.turn-taken-back", { runId: "r9" }), custom("durable-chat.turn-advanced", { runId: 3 }), custom("durable-chat.turn-advanced", null)], fold);
  assert.deepEqual([...fold.queued.keys()], ["r4", "r2"]);
});

test("structured output is data, not text", () => {
  const fold = folded([started("r"), custom("structured-output.start", { messageId: "a" }), delta("a", '{"x":'), delta("a", "1}")]);
  assert.deepEqual(fold.message("a").parts, [{ type: "structured-output", status: "streaming", raw: '{"x":1}' }]);
  folded([custom("structured-output.complete", { messageId: "a", object: { x: 1 }, raw: '{"x":1}' }), delta("a", "Text.")], fold);
  const [part, text] = fold.message("a").parts;
  assert.deepEqual([part.status, part.data, text.content], ["complete", { x: 1 }, "Text."]);
});

test("what is not known changes nothing", () => {
  const fold = folded([...TURN, { type: "STATE_DELTA", delta: [] }, custom("somebody.else", { x: 1 }), { type: "toString" }, {}]);
  assert.deepEqual(fold.messages, folded(TURN).messages);
});

test("a long conversation costs no more than its length", { timeout: 20_000 }, () => {
  const fold = new Fold();
  for (let turn = 0; turn < 2_000; turn++) {
    folded([...echo(`u${turn}`, "x"), ...answered(`r${turn}`, `a${turn}`, ..."0123456789".repeat(10))], fold);
  }
  assert.equal(fold.messages.length, 4_000);
});

test("a message that stops growing because another one begins is painted again", () => {
  const fold = folded([started("r"), open("a"), delta("a", "one")]);
  fold.touched.clear();
  folded([open("b")], fold);
  assert.deepEqual([...fold.touched].sort(), ["a", "b"]);
  fold.touched.clear();
  folded([delta("b", "two")], fold);
  assert.deepEqual([...fold.touched], ["b"]);
});
