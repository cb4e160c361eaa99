// A proxy between tabs and the server that treats each exchange as the scenario decides.

import { createServer, request as ask } from 'node:http'
import { changed } from './facts.mjs'

/**
 * `decide` gets each request, `{method, live, posts, reads}` with the number of requests of its kind so far, and
 * returns what happens: nothing (it passes); `{refuse: true}`, the connection is reset; `{answer: {status,
 * headers}}`, the proxy answers; `{unanswered: true}`, the response is reset before the first byte; `{bytesAfter}`,
 * the response is reset this many bytes after the beginning of its third control event, so that some progress is
 * made.
 */
export async function openProxy(base, decide) {
  const target = new URL(base)
  const proxy = { posts: [], reads: 0, cuts: 0, refused: { POST: 0, GET: 0 } }
  const sockets = new Set()
  const server = createServer((incoming, response) => {
    const live = incoming.url.includes('live=sse')
    if (incoming.method === 'POST') proxy.posts.push(incoming.headers['x-run-id'])
    if (live) proxy.reads += 1
    const fate = decide({ method: incoming.method, live, posts: proxy.posts.length, reads: proxy.reads }) ?? {}
    if (fate.refuse) {
      proxy.refused[incoming.method] += 1
      incoming.socket.resetAndDestroy()
    } else if (fate.answer) response.writeHead(fate.answer.status, fate.answer.headers).end()
    else pass(target, incoming, response, fate, proxy)
    changed()
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  proxy.base = `http://127.0.0.1:${server.address().port}`
  /** Resets all open connections. */
  proxy.cut = () => sockets.forEach((socket) => socket.resetAndDestroy())
  return proxy
}

function pass(target, incoming, response, { unanswered, bytesAfter }, proxy) {
  const { method, url, headers } = incoming
  const outgoing = ask({ host: target.hostname, port: target.port, method, path: url, headers })
  let seen = Buffer.alloc(0)
  const cut = () => {
    proxy.cuts += 1
    outgoing.destroy()
    response.socket?.resetAndDestroy()
    changed()
  }
  outgoing.on('response', (answer) => {
    if (unanswered) return cut()
    response.writeHead(answer.statusCode, answer.headers)
    response.flushHeaders()
    answer.on('data', (bytes) => {
      const passed = seen.length
      seen = Buffer.concat([seen, bytes])
      const end = bytesAfter === undefined ? Infinity : thirdControl(seen) + bytesAfter
      response.write(seen.subarray(passed, end))
      if (seen.length >= end) cut()
    })
    answer.on('end', () => response.end())
    answer.on('error', () => response.socket?.resetAndDestroy())
  })
  outgoing.on('error', () => response.socket?.resetAndDestroy())
  response.on('close', () => outgoing.destroy())
  incoming.pipe(outgoing)
}

/** Returns where the third control event begins, or Infinity. */
function thirdControl(bytes) {
  let at = -1
  for (let count = 0; count < 3; count += 1) {
    at = bytes.indexOf('event: control', at + 1)
    if (at < 0) return Infinity
  }
  return at
}
