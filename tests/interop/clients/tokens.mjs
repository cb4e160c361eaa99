// A connection, the stock one or the module, on a server that requires tokens, each valid for less time than an
// answer takes.

import { createHmac } from "node:crypto";
import { durableStreamConnection } from "@durable-streams/tanstack-ai-transport";
import { durable } from "../../../durable_chat/web/static/durable-chat.js";

const { base, secret, ttlS, connect } = JSON.parse(process.env.OPTIONS);
const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const issued = [];

function freshToken() {
  const claims = { sub: "a", can: ["read", "send"], exp: Math.ceil(Date.now() / 1000) + ttlS };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  const token = `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
  issued.push(token);
  return token;
}

const options = { sendUrl: `${base}/api/chat?id=a`, readUrl: `${base}/api/chat-stream?id=a`, initialOffset: "-1" };
const connections = {
  module: () => durable({ ...options, headers: async () => ({ Authorization: `Bearer ${freshToken()}` }) }),
  stock: () =>
    durableStreamConnection({
      ...options,
      headers: { Authorization: async () => `Bearer ${freshToken()}` },
      fetchClient: async (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${freshToken()}` } }),
    }),
};
const connection = connections[connect]();

const chunks = [];
const leaving = new AbortController();
const subscription = connection.subscribe(leaving.signal);
const first = subscription.next();
await connection.send([{ id: "u1", role: "user", parts: [{ type: "text", content: "Hi" }] }]);
for (let { value, done } = await first; !done; { value, done } = await subscription.next()) {
  chunks.push(value);
  if (value.type === "RUN_FINISHED" || value.type === "RUN_ERROR") break;
}
leaving.abort();
console.log(JSON.stringify({ chunks, issued: issued.length }));
process.exit(0);
