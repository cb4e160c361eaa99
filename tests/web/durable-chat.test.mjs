// The frontend module alone, with a server whose responses each test defines.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { ChatError, durable } from "../../durable_chat/web/static/durable-chat.js";

const LIMIT = { timeout: 30_000 };
const servers = [];
after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));

const text = (delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId: "a1", delta });
const data = (...chunks) => `event: data\ndata: ${JSON.stringify(chunks)}\n\n`;
const control = (offset, more = {}) => `event: control\ndata: ${JSON.stringify({ streamNextOffset: offset, ...more })}\n\n`;
const snapshot = (...messages) => ({ type: "MESSAGES_SNAPSHOT", messages });
const json = (body, headers = {}, status = 200) => ({ status, headers, body: JSON.stringify(body) });
const sse = (body, how = {}) => ({ status: 200, headers: { "Content-Type": "text/event-stream" }, body, ...how });

/**
 * Answers requests in order from `answers`; `asked` lists them. `cut` resets after the body, `open` does not end it;
 * status 0: no response.
 */
async function serve(...answers) {
  const asked = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { pathname, searchParams } = new URL(request.url, "http://server");
    asked.push({ method: request.method, pathname, query: Object.fromEntries(searchParams), headers: request.headers, body, response, at: performance.now() });
    const { status, headers, body: sent, cut, open } = answers[asked.length - 1] ?? sse("", { open: true });
    if (status) response.writeHead(status, headers).write(sent, () => cut && response.socket.resetAndDestroy());
    else response.socket.destroy();
    if (status && !cut && !open) response.end();
  });
  servers.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/api/chat?id=S`;
  return { asked, url };
}

/** Returns the next `count` chunks of a subscription, which stays open. */
async function take(subscription, count) {
  const taken = [];
  while (taken.length < count) {
    const { value, done } = await subscription.next();
    if (done) break;
    taken.push(value);
  }
  return taken;
}

const words = (chunks) => chunks.map((chunk) => chunk.delta ?? chunk.type).join(" ");
const readsOf = (asked) => asked.filter(({ method }) => method === "GET").map(({ query }) => query.offset);

test("begins with the session as a whole, and follows from there", LIMIT, async () => {
  const { asked, url } = await serve(json([snapshot()], { "Stream-Next-Offset": "05" }), sse(data(text("a")) + control("06"), { open: true }));
  const chunks = await take(durable({ sendUrl: url }).subscribe(), 2);
  assert.equal(words(chunks), "MESSAGES_SNAPSHOT a");
  assert.deepEqual(asked.map(({ pathname, query }) => [pathname, query.offset, query.live]), [
    ["/api/chat-stream", "-1", undefined],
    ["/api/chat-stream", "05", "sse"],
  ]);
});

test("an empty session takes nothing away, and says that it is connected", LIMIT, async () => {
  const { url } = await serve(json([], { "Stream-Next-Offset": "00" }), sse(control("00"), { open: true }));
  const [first] = await take(durable({ sendUrl: url }).subscribe(), 1);
  assert.deepEqual([first.type, first.name], ["CUSTOM", "durable-chat.connected"]);
});

test("a cut anywhere loses nothing and doubles nothing", LIMIT, async () => {
  const whole = data(text("a"), text("b")) + control("02");
  const { asked, url } = await serve(
    sse(whole + data(text("c")), { open: true }), // cut between the data and its control event
    sse(data(text("c")).slice(0, -9), { cut: true }), // cut inside the data
    sse(data(text("c")) + control("03").slice(0, 20)), // a clean end inside the control event
    sse(data(text("c")) + control("03"), { open: true }),
  );
  const subscription = durable({ sendUrl: url, initialOffset: "00" }).subscribe();
  assert.equal(words(await take(subscription, 2)), "a b");
  asked[0].response.socket.resetAndDestroy();
  assert.equal(words(await take(subscription, 1)), "c");
  assert.deepEqual(readsOf(asked), ["00", "02", "02", "02"]);
});

test("a subscription that is aborted amid many chunks is gone on with by the next", LIMIT, async () => {
  const { asked, url } = await serve(sse(data(text("a"), text("b"), text("c")) + control("03"), { open: true }), sse(data(text("d")) + control("04"), { open: true }));
  const connection = durable({ sendUrl: url, initialOffset: "00" });
  const leaving = new AbortController();
  const first = connection.subscribe(leaving.signal);
  assert.equal(words(await take(first, 1)), "a");
  leaving.abort();
  const second = connection.subscribe();
  assert.equal(words(await take(second, 3)), "b c d");
  assert.equal((await first.next()).done, true);
  assert.deepEqual(readsOf(asked), ["00", "03"]);
});

test("a subscription ends when it is aborted while it waits", LIMIT, async () => {
  const { url } = await serve(sse(control("00"), { open: true }));
  const leaving = new AbortController();
  const subscription = durable({ sendUrl: url, initialOffset: "00" }).subscribe(leaving.signal);
  await take(subscription, 1);
  const next = subscription.next();
  leaving.abort();
  assert.equal((await next).done, true);
});

test("a connection on which nothing comes any more is given up", LIMIT, async () => {
  const { asked, url } = await serve(sse(": nobody there\n\n", { open: true }), sse(data(text("a")) + control("01"), { open: true }));
  assert.equal(words(await take(durable({ sendUrl: url, initialOffset: "00", silenceMaxMs: 200 }).subscribe(), 1)), "a");
  assert.deepEqual(readsOf(asked), ["00", "00"]);
});

test("it comes back after errors that pass, and keeps a Retry-After", LIMIT, async () => {
  const states = [];
  const { asked, url } = await serve(
    { status: 0 },
    json({ error: "Starting.", code: "starting" }, {}, 502),
    json({}, {}, 404),
    json({}, { "Retry-After": "1" }, 503),
    sse(data(text("a")) + control("01"), { open: true }),
  );
  const chunks = await take(durable({ sendUrl: url, initialOffset: "00", onState: (state) => states.push(state) }).subscribe(), 1);
  assert.equal(words(chunks), "a");
  assert.deepEqual(states, ["connecting", "reconnecting", "offline", "live"]);
  assert.ok(asked[4].at - asked[3].at >= 990, "not before the server said");
});

test("it comes back at once when the network does, or somebody looks", LIMIT, async (context) => {
  const seen = new Map();
  globalThis.addEventListener = (name, call, { signal }) => {
    seen.set(name, call);
    signal.addEventListener("abort", () => seen.get(name) === call && seen.delete(name));
  };
  context.after(() => delete globalThis.addEventListener);
  const waiting = [];
  const onState = (state) => state !== "live" && setImmediate(() => waiting.shift()?.());
  const { url } = await serve({ status: 0 }, sse(control("00"), { open: true }), sse(data(text("a")) + control("01"), { open: true }));
  context.mock.timers.enable({ apis: ["setTimeout"] }); // no pause ends by itself
  const subscription = durable({ sendUrl: url, initialOffset: "00", onState }).subscribe();
  waiting.push(() => {}, () => seen.get("online")());
  await take(subscription, 1);
  waiting.push(() => seen.get("pageshow")());
  const next = take(subscription, 1);
  setImmediate(() => seen.get("offline")()); // the connection is closed: otherwise nothing would notice for long
  assert.equal(words(await next), "a");
  context.mock.timers.reset();
});

test("a tab that reads by itself lets go while it is hidden, and goes on where it was when it is looked at", LIMIT, async (context) => {
  const page = (globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" }));
  context.after(() => delete globalThis.document);
  const show = (visibilityState) => (Object.assign(page, { visibilityState }), page.dispatchEvent(new Event("visibilitychange")));
  const { asked, url } = await serve(sse(data(text("a")) + control("01"), { open: true }), sse(data(text("b")) + control("02"), { open: true }));
  const subscription = durable({ sendUrl: url, initialOffset: "00", share: false }).subscribe();
  assert.equal(words(await take(subscription, 1)), "a");
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const next = take(subscription, 1);
  const left = new Promise((resolve) => asked[0].response.on("close", resolve));
  show("hidden");
  context.mock.timers.tick(10_000);
  await left;
  assert.equal(asked.length, 1);
  show("visible");
  context.mock.timers.reset();
  assert.equal(words(await next), "b");
  assert.deepEqual(readsOf(asked), ["00", "01"]);
});

test("a log that was deleted and begun again is read from its beginning, and the runs that are gone end", LIMIT, async () => {
  const { asked, url } = await serve(
    sse(data({ type: "RUN_STARTED", runId: "r1", threadId: "S" }, text("a")) + control("07"), { open: false }),
    sse(control("00"), { open: true }),
    json([], { "Stream-Next-Offset": "00" }),
    sse(data(text("b")) + control("01"), { open: true }),
  );
  const chunks = await take(durable({ sendUrl: url, initialOffset: "05" }).subscribe(), 5);
  assert.equal(words(chunks), "RUN_STARTED a MESSAGES_SNAPSHOT RUN_FINISHED b");
  assert.deepEqual([chunks[2].messages, chunks[3].runId], [[], "r1"]);
  assert.deepEqual(readsOf(asked), ["05", "07", "-1", "00"]);
});

test("an offset that is not taken is given up", LIMIT, async () => {
  const { asked, url } = await serve(json({}, {}, 400), json([snapshot()], { "Stream-Next-Offset": "02" }));
  assert.equal(words(await take(durable({ sendUrl: url, initialOffset: "nonsense" }).subscribe(), 1)), "MESSAGES_SNAPSHOT");
  assert.deepEqual(readsOf(asked), ["nonsense", "-1"]);
});

test("an address that is refused is told, not tried for ever", LIMIT, async () => {
  const { url } = await serve(json({ error: "No such session id.", code: "bad_id" }, {}, 400));
  await assert.rejects(take(durable({ sendUrl: url }).subscribe(), 1), { name: "ChatError", status: 400, code: "bad_id", message: "No such session id." });
});

test("a refused token is told; one of a function is asked for again", LIMIT, async () => {
  const refused = () => json({ error: "Expired.", code: "expired_token" }, {}, 401);
  const fixed = await serve(refused());
  await assert.rejects(take(durable({ sendUrl: fixed.url, initialOffset: "00", headers: { Authorization: "Bearer old" } }).subscribe(), 1), { status: 401 });
  assert.equal(fixed.asked.length, 1);

  for (const headers of [(token) => async () => ({ Authorization: token() }), (token) => ({ Authorization: token })]) {
    const { asked, url } = await serve(sse(data(text("a")) + control("01")), refused(), refused(), sse(data(text("b")) + control("02"), { open: true }));
    let count = 0;
    const connection = durable({ sendUrl: url, initialOffset: "00", headers: headers(() => `Bearer ${++count}`) });
    assert.equal(words(await take(connection.subscribe(), 2)), "a b");
    assert.deepEqual(asked.map(({ headers }) => headers.authorization), ["Bearer 1", "Bearer 2", "Bearer 3", "Bearer 4"]);
  }

  const never = await serve(refused(), refused(), refused());
  await assert.rejects(take(durable({ sendUrl: never.url, initialOffset: "00", headers: () => ({}) }).subscribe(), 1), ChatError);
  assert.equal(never.asked.length, 3);
});

test("each request has the options' credentials and client", LIMIT, async () => {
  const calls = [];
  const { url } = await serve(sse(control("00"), { open: true }), json({}, {}, 202), json({ stopped: ["r1"] }));
  const fetchClient = (address, init) => (calls.push(init.credentials), fetch(address, init));
  const connection = durable({ sendUrl: url, initialOffset: "00", credentials: "include", fetchClient });
  await take(connection.subscribe(), 1);
  await connection.send([]);
  assert.deepEqual(await connection.stop(), ["r1"]);
  assert.deepEqual(calls, ["include", "include", "include"]);
});

test("a send whose answer is lost is sent again as the same request; another one is another", LIMIT, async () => {
  const { asked, url } = await serve({ status: 0 }, json({ error: "Wait.", code: "draining" }, { "Retry-After": "0" }, 503), json({}, {}, 202), json({}, {}, 202), json({}, {}, 202));
  const connection = durable({ sendUrl: url });
  const tools = [{ name: "locate", description: "Where.", parameters: { type: "object" } }];
  await connection.send([{ id: "u1" }], { a: 1 }, undefined, { runId: "run-1", threadId: "t", clientTools: tools, headers: { "x-byok-anthropic": "key" } });
  await connection.send([{ id: "u2" }]);
  await connection.send([{ id: "u3" }]);
  const keys = asked.map(({ headers }) => headers["x-run-id"]);
  assert.deepEqual(keys.slice(0, 3), ["run-1", "run-1", "run-1"]);
  assert.equal(new Set(keys).size, 3);
  assert.deepEqual(JSON.parse(asked[0].body), { messages: [{ id: "u1" }], data: { a: 1 }, tools });
  assert.equal(asked[2].body, asked[0].body);
  assert.equal(asked[2].headers["x-byok-anthropic"], "key");
});

test("a send waits for a server however long it is away, and is the same request each time", LIMIT, async (context) => {
  const waits = new Set();
  globalThis.addEventListener = (name, call, { signal }) => {
    if (name === "online") waits.add(call), signal.addEventListener("abort", () => waits.delete(call));
  };
  const network = setInterval(() => waits.forEach((wake) => wake()), 5); // the network is back at once each time
  context.after(() => (clearInterval(network), delete globalThis.addEventListener));
  const { asked, url } = await serve(...Array(12).fill({ status: 0 }), json({}, {}, 202));
  await durable({ sendUrl: url }).send([{ id: "u1" }]);
  assert.equal(asked.length, 13);
  assert.equal(new Set(asked.map(({ headers }) => headers["x-run-id"])).size, 1);
});

test("a send that is refused says why, once", LIMIT, async () => {
  const { asked, url } = await serve(json({ error: "Too many turns.", code: "too_many_turns" }, { "Retry-After": "30" }, 429));
  await assert.rejects(durable({ sendUrl: url }).send([]), { message: "Too many turns.", status: 429, code: "too_many_turns", retryAfter: 30 });
  assert.equal(asked.length, 1);
});

test("a send that is aborted ends so", LIMIT, async () => {
  const { url } = await serve({ status: 0 }, { status: 0 });
  const leaving = new AbortController();
  const sent = durable({ sendUrl: url }).send([], {}, leaving.signal);
  leaving.abort();
  await assert.rejects(sent, { name: "AbortError" });
});

test("stop says what it stopped, and asks for one run where it is told", LIMIT, async () => {
  const { asked, url } = await serve({ status: 0 }, json({ stopped: ["r1"] }), json({ stopped: [] }));
  const connection = durable({ sendUrl: url });
  assert.deepEqual(await connection.stop(), ["r1"]);
  assert.deepEqual(await connection.stop({ runId: "r2" }), []);
  assert.deepEqual(asked.slice(1).map(({ pathname, query }) => [pathname, query]), [
    ["/api/chat-stop", { id: "S" }],
    ["/api/chat-stop", { id: "S", runId: "r2" }],
  ]);
});

test("a connection of somebody else's is subscribed again, whatever its end; not where it is refused", LIMIT, async () => {
  const ends = [() => {}, () => { throw new TypeError("terminated"); }, () => { throw Object.assign(new Error(), { status: 404 }); }, () => { throw Object.assign(new Error("no"), { status: 403 }); }];
  let count = 0;
  const inner = {
    async *subscribe() {
      yield text(String(++count));
      ends[count - 1]();
    },
    async send() {
      return this === inner;
    },
  };
  const connection = durable(inner);
  const subscription = connection.subscribe();
  assert.equal(words(await take(subscription, 4)), "1 2 3 4");
  await assert.rejects(subscription.next(), { message: "no" });
  assert.equal(await connection.send([]), true);
  assert.equal("stop" in connection || "joinRun" in connection, false);
  assert.equal("stop" in durable(inner, { sendUrl: "http://server/api/chat?id=S" }), true);
});

test("a connection of somebody else's is left when the subscription is aborted", LIMIT, async () => {
  const leaving = new AbortController();
  const inner = {
    async *subscribe(signal) {
      yield text("a");
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      throw signal.reason;
    },
    send() {},
  };
  const subscription = durable(inner).subscribe(leaving.signal);
  await take(subscription, 1);
  const next = subscription.next();
  leaving.abort();
  assert.equal((await next).done, true);
});
