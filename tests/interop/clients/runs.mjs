// The requests of TanStack's own adapter for resumable runs (@tanstack/ai-durable-stream, which npm does not have):
// one stream for each run, its name with an encoded slash, numbered records, and a strict reader.

import { changed, main, until, within } from './facts.mjs'

const JSON_TYPE = 'application/json'
const CONTROL_KEYS = new Set(['streamNextOffset', 'streamCursor', 'upToDate', 'streamClosed'])

function require(condition, complaint, value) {
  if (!condition) throw new Error(`${complaint}: ${JSON.stringify(value)}`)
}

/** A run's stream as the adapter writes it. */
class Writer {
  constructor(base, runId, headers = {}) {
    this.url = `${base}/streams/${encodeURIComponent(`runs/${runId}`)}`
    this.headers = headers
    this.producer = crypto.randomUUID()
    this.batches = 0
    this.records = 0
  }

  async request(method, headers, body) {
    const response = await fetch(this.url, { method, headers: { ...this.headers, ...headers }, body })
    require(response.ok, `${method} was refused`, response.status)
    const offset = response.headers.get('Stream-Next-Offset')
    require(offset?.trim(), `${method} names no offset`, offset)
    return { status: response.status, offset, closed: response.headers.get('Stream-Closed') }
  }

  create() {
    return this.request('PUT', { 'Content-Type': JSON_TYPE })
  }

  /** Appends one batch. `times` is how often it is sent, as after a lost response. */
  async append(chunks, times = 1) {
    const batch = chunks.map((chunk) => ({ v: 1, seq: (this.records += 1), chunk }))
    const headers = {
      'Content-Type': JSON_TYPE,
      'Producer-Id': this.producer,
      'Producer-Epoch': '0',
      'Producer-Seq': String(this.batches),
    }
    this.batches += 1
    const answers = []
    for (let time = 0; time < times; time += 1) answers.push(await this.request('POST', headers, JSON.stringify(batch)))
    return answers
  }

  async close() {
    const answer = await this.request('POST', { 'Stream-Closed': 'true' })
    require(answer.closed === 'true', 'the answer to a close does not say so', answer)
    return answer
  }
}

/** The events of one response, without comments. */
async function* events(body) {
  let text = ''
  const decoder = new TextDecoder()
  for await (const bytes of body) {
    text += decoder.decode(bytes, { stream: true })
    const blocks = text.split('\n\n')
    text = blocks.pop()
    for (const block of blocks) {
      const fields = block.split('\n').filter((line) => line !== '' && !line.startsWith(':'))
      if (fields.length === 0) continue
      const values = (name) =>
        fields.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart())
      yield { event: values('event')[0], data: JSON.parse(values('data').join('\n')) }
    }
  }
  require(text.trim() === '', 'a response ends within an event', text)
}

/** One window: only data and control events, each data followed by its control, and some progress. */
async function readWindow(reader, url, headers, stopsAtTail = false) {
  const address = new URL(url)
  const before = { offset: reader.offset, cursor: reader.cursor }
  address.searchParams.set('offset', reader.offset)
  address.searchParams.set('live', 'sse')
  if (reader.cursor !== undefined) address.searchParams.set('cursor', reader.cursor)
  const response = await fetch(address, { headers })
  require(response.ok, 'a read was refused', response.status)
  let settled = false
  reader.inWindow = 0
  for await (const { event, data } of events(response.body)) {
    require(event === 'data' || event === 'control', 'an event nobody knows', event)
    settled = event === 'control'
    if (settled) takeControl(reader, data)
    else takeRecords(reader, data)
    changed()
    if (settled && stopsAtTail && (data.upToDate === true || reader.closed)) return
  }
  require(settled, 'a window ends without a control event', reader)
  const moved = reader.offset !== before.offset || reader.cursor !== before.cursor
  require(moved || reader.closed, 'a window ends where it began', reader)
}

function takeRecords(reader, data) {
  require(Array.isArray(data), 'data is a list', data)
  for (const record of data) {
    const { v, seq, chunk } = record
    require(v === 1 && Number.isSafeInteger(seq) && typeof chunk?.type === 'string', 'a record', record)
    require(seq > reader.inWindow, 'the numbers of one response increase', { seq, before: reader.inWindow })
    reader.inWindow = seq
    if (seq <= reader.seq) continue
    reader.seq = seq
    reader.chunks.push(chunk)
  }
}

function takeControl(reader, data) {
  const { streamNextOffset, streamCursor, streamClosed, upToDate } = data
  require(Object.keys(data).every((key) => CONTROL_KEYS.has(key)), 'a control event', data)
  require(typeof streamNextOffset === 'string' && streamNextOffset.trim() !== '', 'the next offset', data)
  require(streamClosed === true || typeof streamCursor === 'string', 'the cursor of an open stream', data)
  require([streamClosed, upToDate].every((flag) => flag === undefined || typeof flag === 'boolean'), 'flags', data)
  Object.assign(reader, { offset: streamNextOffset, cursor: streamCursor, closed: streamClosed === true })
}

/** Reads window after window until the stream is closed. `seq` is the last known record. */
function read(url, headers, offset = '-1', seq = 0) {
  const reader = { offset, seq, cursor: undefined, closed: false, windows: 0, chunks: [] }
  const run = async () => {
    while (!reader.closed) {
      reader.windows += 1
      changed()
      await readWindow(reader, url, headers)
    }
  }
  return { reader, ended: within('a reader comes to the end', run(), () => reader) }
}

/** Returns the records so far: the adapter's bounded read, which ends when the server reports no more. */
async function snapshot(url, headers) {
  const reader = { offset: '-1', seq: 0, cursor: undefined, closed: false, chunks: [] }
  await within('a bounded read comes to the tail', readWindow(reader, url, headers, true), () => reader)
  return reader.chunks
}

function deltas(from, to) {
  const numbers = Array.from({ length: to - from }, (_, index) => from + index)
  return numbers.map((number) => ({ type: 'TEXT_MESSAGE_CONTENT', messageId: 'm', delta: `word ${number} ` }))
}

/** A whole run with a repeated batch, and its readers from the start, from the middle and after the end. */
async function run({ base, headers = {}, runId, windows }) {
  const writer = new Writer(base, runId, headers)
  const created = await writer.create()
  const again = await writer.create()
  const early = read(writer.url, headers)
  const [accepted] = await writer.append([{ type: 'CUSTOM', name: 'run.accepted', value: {} }])
  const [batch] = await writer.append(deltas(0, 5))
  await until('the reader has the first words', () => early.reader.chunks.length === 6, () => early.reader)
  // When the server ends a response after its time, the reader continues with the next one, also if nothing was
  // written.
  await until('the reader has gone through its windows', () => early.reader.windows >= windows, () => early.reader)
  // The offset before the batch, and the number of the last record seen in it: the state of a resumed reader.
  const resumed = read(writer.url, headers, accepted.offset, 3)
  const repeated = await writer.append(deltas(5, 10), 3)
  await writer.append([{ type: 'RUN_FINISHED', runId, threadId: 't' }])
  const closed = await writer.close()
  const late = read(writer.url, headers)
  await Promise.all([early, resumed, late].map((reader) => reader.ended))
  return {
    sent: [{ type: 'CUSTOM', name: 'run.accepted', value: {} }, ...deltas(0, 10), { type: 'RUN_FINISHED', runId, threadId: 't' }],
    statuses: { created: created.status, again: again.status, repeated: repeated.map(({ status }) => status) },
    offsets: [created, accepted, batch, repeated[0], closed].map(({ offset }) => offset),
    repeatedOffsets: repeated.map(({ offset }) => offset),
    early: early.reader,
    resumed: resumed.reader.chunks,
    late: late.reader.chunks,
  }
}

/** A host that takes over a run finds it with its create, reads the records, and appends after them. */
async function takeover({ base, headers = {}, runId }) {
  const first = new Writer(base, runId, headers)
  await first.create()
  const empty = await snapshot(first.url, headers)
  await first.append(deltas(0, 3))
  const second = new Writer(base, runId, headers)
  const found = await second.create()
  const there = await snapshot(second.url, headers)
  second.records = there.length
  await second.append(deltas(3, 5))
  const open = await snapshot(first.url, headers)
  await second.close()
  const repeated = await second.close()
  const closed = await snapshot(first.url, headers)
  return { sent: deltas(0, 5), empty, found: found.status, there, open, closed, repeated: repeated.status }
}

await main({ run, takeover })
