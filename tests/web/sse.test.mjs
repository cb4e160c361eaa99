// Server-sent events are the same however the bytes are split.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser } from "../../durable_chat/web/static/durable-chat-reads.js";

const STREAM = [
  ": a ping\n\n",
  'event: data\ndata:[{"delta":"größe 🙂"}]\n\n',
  "event: control\r\ndata: one\r\ndata: two\r\n\r\n",
  "id: 7\nretry: 10\nunknown\ndata\n\n",
  "event: nothing\n\n",
  "data:  a space stays\rdata:more\r\r",
  "event: data\ndata: not complete",
].join("");

const EVENTS = [
  { name: "data", data: '[{"delta":"größe 🙂"}]' },
  { name: "control", data: "one\ntwo" },
  { name: "message", data: "" },
  { name: "message", data: " a space stays\nmore" },
];

const parse = (pieces) => {
  const parser = new EventParser();
  return pieces.flatMap((piece) => parser.push(piece));
};

test("events, comments, fields that mean nothing here, and every kind of line end", () => {
  assert.deepEqual(parse([STREAM]), EVENTS);
});

test("cut in two at any place", () => {
  for (let at = 0; at <= STREAM.length; at++) {
    assert.deepEqual(parse([STREAM.slice(0, at), STREAM.slice(at)]), EVENTS, `cut at ${at}`);
  }
});

test("character by character", () => {
  assert.deepEqual(parse(STREAM.split("")), EVENTS);
});

test("cut inside a character, as the page decodes it", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  const source = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const pieces = [];
  for await (const piece of source.pipeThrough(new TextDecoderStream())) pieces.push(piece);
  assert.deepEqual(parse(pieces), EVENTS);
});

test("what is not complete waits", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.push("data: half"), []);
  assert.deepEqual(parser.push(" and half\n"), []);
  assert.deepEqual(parser.push("\n"), [{ name: "message", data: "half and half" }]);
});

test("a long event in many pieces costs no more than its length", { timeout: 20_000 }, () => {
  const parser = new EventParser();
  const piece = "x".repeat(1_000);
  parser.push("data: ");
  for (let i = 0; i < 20_000; i++) assert.equal(parser.push(piece).length, 0);
  assert.equal(parser.push("\n\n")[0].data.length, 20_000_000);
});
