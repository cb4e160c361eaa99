// Request-scoped connections over lost connections: the chunks that reach the client, and the log.

import { changed, main, until, within } from './facts.mjs'

// Several reconnects in a run must not take seconds, and a restarting server must be waited for.
const RECONNECT = { delayMs: 20, maxAttempts: 500 }

async function connectionOf(client, kind, url, headers = {}) {
  const library = await import(client)
  const make = { sse: library.fetchServerSentEvents, ndjson: library.fetchHttpStream }[kind]
  return make(url, { headers, reconnect: RECONNECT })
}

const urlOf = (base, kind) => `${base}/api/chat${kind === 'ndjson' ? '/ndjson' : ''}`
const said = (text, id = 'u1') => ({ id, role: 'user', parts: [{ type: 'text', content: text }] })

/** Sends a message and collects the chunks until the run is over. */
async function send(connection, threadId, runId, text, chunks = []) {
  const stream = connection.connect([said(text)], undefined, undefined, { threadId, runId })
  for await (const chunk of stream) {
    chunks.push(chunk)
    changed()
  }
  return chunks
}

async function logged(base, threadId) {
  const first = '0000000000000000_0000000000000000'
  const response = await fetch(`${base}/api/chat-stream?id=${threadId}&offset=${first}`)
  const chunks = await response.json()
  return chunks.slice(chunks.findIndex((chunk) => chunk.type === 'RUN_STARTED'))
}

/** One run for each boundary between two chunks, cut there. Then one that is cut after every chunk. */
async function boundaries({ client, kind, base, proxy, text }) {
  const whole = await send(await connectionOf(client, kind, urlOf(base, kind)), `${kind}-whole`, 'run-whole', text)
  const runs = []
  for (let frames = 1; frames <= whole.length; frames += 1) runs.push([`${kind}-${frames}`, `${frames} once`])
  // A client that is reset after the last chunk treats the run as incomplete, whatever the server answers.
  for (let frames = 1; frames < whole.length; frames += 1) runs.push([`${kind}-${frames}-reset`, `${frames} reset`])
  runs.push([`${kind}-each`, '1 each'])
  return Promise.all(
    runs.map(async ([name, cut]) => {
      const connection = await connectionOf(client, kind, urlOf(proxy, kind), { 'x-cut': `${name} ${cut}` })
      const chunks = await within(`the run ${name}`, send(connection, name, `run-${name}`, text))
      return { name, chunks, logged: await logged(base, name) }
    }),
  )
}

/** A run whose server gets a signal during it, as seen by its sender and by a tab that joined it by its id. */
async function restart({ client, kind, base, text, pid, signal }) {
  const connection = await connectionOf(client, kind, urlOf(base, kind))
  const chunks = []
  const running = send(connection, 'restarted', 'run-restarted', text, chunks)
  await until('the answer begins', () => chunks.some((chunk) => chunk.type === 'TEXT_MESSAGE_CONTENT'), () => chunks)
  const { activeRun } = await connection.hydrate('restarted')
  const joined = []
  const joining = (async () => {
    for await (const chunk of connection.joinRun(activeRun.runId)) {
      joined.push(chunk)
      changed()
    }
  })()
  await until('the joined tab catches up', () => joined.length >= chunks.length, () => joined)
  process.kill(pid, signal)
  await within('the run ends', Promise.all([running, joining]), () => chunks)
  await serverIsBack(base)
  return { chunks, joined, logged: await logged(base, 'restarted') }
}

async function serverIsBack(base) {
  for (;;) {
    const ready = await fetch(`${base}/readyz`).catch(() => null)
    if (ready?.ok) return
    await new Promise((resolve) => setTimeout(resolve, RECONNECT.delayMs))
  }
}

/** A reader that takes longer for each chunk than the model. */
async function slow({ client, kind, base, text, waitMs }) {
  const connection = await connectionOf(client, kind, urlOf(base, kind))
  const chunks = []
  const stream = connection.connect([said(text)], undefined, undefined, { threadId: 'slow', runId: 'run-slow' })
  for await (const chunk of stream) {
    chunks.push(chunk)
    if (chunks.length < 20) await new Promise((resolve) => setTimeout(resolve, waitMs))
  }
  return { chunks, logged: await logged(base, 'slow') }
}

/** Two tabs with one run each, and a third that joins the second one by its id while it runs. */
async function tabs({ client, kind, base, text }) {
  const url = urlOf(base, kind)
  const first = await connectionOf(client, kind, url)
  const second = await connectionOf(client, kind, url)
  const sending = send(first, 'tabs', 'run-first', text)
  const chunks = []
  const queued = (async () => {
    for await (const chunk of second.connect([said('hello', 'u2')], undefined, undefined, { threadId: 'tabs', runId: 'run-second' })) {
      chunks.push(chunk)
      changed()
    }
  })()
  await until('the second turn is accepted', () => chunks.length > 0)
  const joined = []
  const joining = (async () => {
    for await (const chunk of first.joinRun('run-second')) joined.push(chunk)
  })()
  const [whole] = await Promise.all([sending, queued, joining])
  return { first: whole, second: chunks, joined, state: await first.hydrate('tabs') }
}

await main({ boundaries, restart, slow, tabs })
