// Scenarios of one stream with the real @durable-streams/client. Each returns facts as JSON; the test checks them.

import { DurableStream, IdempotentProducer, StaleEpochError, stream } from '@durable-streams/client'
import { changed, main, until, within } from './facts.mjs'

const JSON_TYPE = 'application/json'

function records(name, count) {
  return Array.from({ length: count }, (_, index) => ({ name, index, text: 'ü€😀\n'.repeat(index % 3) }))
}

async function readAll(url, options = {}) {
  return (await stream({ url, live: false, ...options })).json()
}

/** A reader that runs until the stream is closed. Returns its data and how it ended. */
async function follow(url, live, options = {}) {
  const got = { items: [], offset: null, closed: false }
  const response = await stream({ url, live, json: true, ...options })
  response.subscribeJson((batch) => {
    got.items.push(...batch.items)
    got.offset = batch.offset
    got.closed ||= batch.streamClosed
    changed()
  })
  // The client reports the end before it has delivered the last batch.
  const ended = Promise.all([
    within('the reader is done', response.closed, () => got),
    until('the reader has been told of the end', () => got.closed, () => got),
  ])
  return { got, ended }
}

/** Plain appends, sequential and concurrent, and reads from the start, from an offset and from now. */
async function plain({ url, headers }) {
  const handle = await DurableStream.create({ url, headers, contentType: JSON_TYPE })
  const sent = records('plain', 10)
  for (const record of sent.slice(0, 5)) await handle.append(JSON.stringify(record))
  const middle = (await handle.head()).offset
  await Promise.all(sent.slice(5).map((record) => handle.append(JSON.stringify(record))))
  const { offset, contentType, streamClosed } = await handle.head()
  return {
    sent,
    whole: await readAll(url, { headers }),
    rest: await readAll(url, { headers, offset: middle }),
    nothing: await readAll(url, { headers, offset }),
    now: await readAll(url, { headers, offset: 'now' }),
    contentType,
    streamClosed: streamClosed ?? false,
  }
}

/** Bytes: text that an appended stream writes is read back unchanged. */
async function text({ url, headers, lines }) {
  const handle = await DurableStream.create({ url, headers, contentType: 'text/plain' })
  async function* source() {
    yield* lines
  }
  await handle.appendStream(source())
  const whole = await (await stream({ url, headers, live: false })).text()
  await handle.delete()
  return { whole, gone: await fetch(url, { headers, method: 'HEAD' }).then((response) => response.status) }
}

/**
 * A producer with pipelined batches, its successor in the next epoch, the first one again (fenced), and a third that
 * knows no epoch and claims the next one.
 */
async function producer({ url, headers, count }) {
  const handle = await DurableStream.create({ url, headers, contentType: JSON_TYPE })
  const errors = []
  const open = (options) =>
    new IdempotentProducer(handle, 'writer', {
      headers,
      lingerMs: 1,
      maxBatchBytes: 500,
      onError: (error) => (errors.push(error), changed()),
      ...options,
    })
  const send = async (writer, items) => {
    for (const item of items) writer.append(JSON.stringify(item))
    await writer.flush()
  }
  const parts = ['first', 'second', 'third'].map((name) => records(name, count))
  const [first, second, third] = [open({}), open({ epoch: 1 }), open({ autoClaim: true })]
  await send(first, parts[0])
  await send(second, parts[1])
  await send(first, [{ name: 'fenced' }]).catch(() => undefined)
  await until('the first producer is told', () => errors.length > 0)
  await send(third, parts[2])
  const repeated = await repeat(url, headers)
  const { finalOffset } = await third.close(JSON.stringify({ name: 'last' }))
  return {
    sent: [...parts.flat(), { name: 'repeated' }, { name: 'last' }],
    whole: await readAll(url, { headers }),
    epochs: [first.epoch, second.epoch, third.epoch],
    errors: errors.map((error) => error instanceof StaleEpochError),
    repeated,
    afterEnd: await readAll(url, { headers, offset: finalOffset }),
  }
}

/** The same append with its own producer, three times, as a client without a response repeats it. */
async function repeat(url, headers) {
  const statuses = []
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const response = await fetch(url, {
      method: 'POST',
      headers: { ...headers, 'content-type': JSON_TYPE, 'producer-id': 'other', 'producer-epoch': '0', 'producer-seq': '0' },
      body: JSON.stringify([{ name: 'repeated' }]),
    })
    await response.arrayBuffer()
    statuses.push(response.status)
  }
  return statuses
}

/** Three readers from before the first append, one from the middle, one after the end. The writer closes the stream. */
async function live({ url, headers, mode, count }) {
  const handle = await DurableStream.create({ url, headers, contentType: JSON_TYPE })
  const early = await Promise.all([1, 2, 3].map(() => follow(url, mode, { headers })))
  const sent = records('live', count)
  const half = count / 2
  for (const record of sent.slice(0, half)) await handle.append(JSON.stringify(record))
  const [{ got: seen }] = early
  await until('a reader has the first half', () => seen.items.length === half, () => seen)
  const late = await follow(url, mode, { headers, offset: seen.offset })
  await Promise.all(sent.slice(half).map((record) => handle.append(JSON.stringify(record))))
  await handle.close({ body: JSON.stringify({ name: 'last' }) })
  const after = await follow(url, mode, { headers })
  const readers = [...early, late, after]
  await Promise.all(readers.map((reader) => reader.ended))
  const refused = await handle.append('{}').then(
    () => null,
    (error) => error.status,
  )
  return {
    sent: [...sent, { name: 'last' }],
    early: early.map(({ got }) => got),
    late: late.got,
    after: after.got,
    refused,
  }
}

/**
 * The log of a chat's session while an answer is written: a reader from before, one that resumes from the middle, and
 * one that reads afterwards.
 */
async function session({ base, id, text }) {
  const url = `${base}/v1/stream/chat-${id}`
  await DurableStream.create({ url, contentType: JSON_TYPE })
  const tail = []
  const leaving = new AbortController()
  const open = async (into, options) => {
    const response = await stream({ url, live: 'sse', json: true, signal: leaving.signal, ...options })
    response.subscribeJson((batch) => (into.push(...batch.items), (into.offset = batch.offset), (into.batches = (into.batches ?? 0) + 1), changed()))
  }
  const [first, second, resumed] = [[], [], []]
  await Promise.all([open(first), open(second)])
  const body = JSON.stringify({ messages: [{ id: 'u1', role: 'user', parts: [{ type: 'text', content: text }] }] })
  const sent = fetch(`${base}/api/chat?id=${id}`, { method: 'POST', headers: { 'content-type': JSON_TYPE }, body })
  await until('the answer has begun', () => first.some(({ type }) => type === 'TEXT_MESSAGE_CONTENT'), () => first)
  tail.push(...first)
  await open(resumed, { offset: first.offset })
  const late = []
  await open(late)
  const ended = (items) => ['RUN_FINISHED', 'RUN_ERROR'].includes(items.at(-1)?.type)
  await Promise.all([first, second, resumed, late].map((items) => until('the answer is over', () => ended(items), () => items)))
  const batches = first.batches
  leaving.abort()
  return { status: (await sent).status, first, second, resumed: [...tail, ...resumed], late, batches, whole: await readAll(url) }
}

await main({ live, plain, producer, session, text })
