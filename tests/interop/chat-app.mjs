// The chat stack of a user with npm's packages: node chat-app.mjs PORT STREAMS_URL. Three routes around
// @durable-streams/tanstack-ai-transport, as in its own example: a page's hydration, a turn, and the proxy that tabs
// read through. The model reports when it sent each delta, like benchmarks/stamped.py. A turn's text requests the
// deltas: "COUNT deltas, PER_S a second".

import { createServer } from "node:http"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { setImmediate, setTimeout } from "node:timers/promises"
import {
  ensureDurableChatSessionStream,
  materializeSnapshotFromDurableStream,
  toDurableChatSessionResponse,
} from "@durable-streams/tanstack-ai-transport"

const [port, streams] = process.argv.slice(2)
// Headers of one connection, or no longer true because fetch decodes the body.
const DROPPED = new Set(["connection", "transfer-encoding", "keep-alive", "content-encoding", "content-length"])

// The same clock as Python's time.monotonic_ns on Linux.
const nowNs = () => process.hrtime.bigint()
const stamp = (number) => `${String(number).padStart(6, "0")}:${nowNs().toString(16).padStart(16, "0")};`

async function* answer(threadId, text) {
  const [, count, perS] = text.match(/^(\d+) deltas, (\d+) a second$/).map(Number)
  const runId = `run-${crypto.randomUUID()}`
  const messageId = `msg-${runId}`
  const chunk = (type, fields) => ({ type, ...fields, timestamp: Date.now() })
  yield chunk("RUN_STARTED", { threadId, runId })
  yield chunk("TEXT_MESSAGE_START", { messageId, role: "assistant" })
  const begunMs = performance.now()
  for (let number = 0; number < count; number++) {
    const waitMs = begunMs + (number * 1000) / perS - performance.now()
    await (waitMs > 0 ? setTimeout(waitMs) : setImmediate())
    yield chunk("TEXT_MESSAGE_CONTENT", { messageId, delta: stamp(number) })
  }
  yield chunk("TEXT_MESSAGE_END", { messageId })
  yield chunk("RUN_FINISHED", { threadId, runId, metadata: { tanstack: { finishReason: "stop" } } })
}

async function hydrate(id, target) {
  await ensureDurableChatSessionStream(target)
  const { messages, offset } = await materializeSnapshotFromDurableStream({ readUrl: target.writeUrl })
  return Response.json({ messages, offset })
}

async function turn(id, target, request) {
  const pieces = []
  for await (const piece of request) pieces.push(piece)
  const { messages } = JSON.parse(Buffer.concat(pieces).toString())
  const message = messages.findLast(({ role }) => role === "user")
  const responseStream = answer(id, message.parts[0].content)
  return toDurableChatSessionResponse({ stream: target, newMessages: [message], responseStream })
}

function read(id, target, request, url) {
  const upstream = new URL(target.writeUrl)
  for (const [name, value] of url.searchParams) if (name !== "id") upstream.searchParams.append(name, value)
  return fetch(upstream, { headers: { Accept: request.headers.accept ?? "*/*" } })
}

const ROUTES = { "GET /api/chat-snapshot": hydrate, "POST /api/chat": turn, "GET /api/chat-stream": read }

async function serve(request, response) {
  const url = new URL(request.url, "http://localhost")
  const route = ROUTES[`${request.method} ${url.pathname}`]
  const id = url.searchParams.get("id")
  const given = route && id
    ? await route(id, { writeUrl: `${streams}/chat-${encodeURIComponent(id)}` }, request, url)
    : new Response(null, { status: 404 })
  const headers = [...given.headers].filter(([name]) => !DROPPED.has(name))
  response.writeHead(given.status, Object.fromEntries(headers))
  if (given.body === null) response.end()
  else await pipeline(Readable.fromWeb(given.body), response)
}

const server = createServer((request, response) => {
  serve(request, response).catch((error) => {
    // A reader that disconnects is not a failure.
    if (response.headersSent) return response.destroy()
    console.error(error)
    response.writeHead(500).end()
  })
})
server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${port}`))

for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => process.exit(0))
