// A chat with only `fetch`, as in a program without a client library. Returns facts; the test checks them.

import { changed, main, until } from './facts.mjs'

const textOf = (chunks) => chunks.filter(({ type }) => type === 'TEXT_MESSAGE_CONTENT').map(({ delta }) => delta).join('')
const has = (type) => ({ chunks }) => chunks.some((chunk) => chunk.type === type)
const ended = ({ chunks }) => ['RUN_FINISHED', 'RUN_ERROR'].includes(chunks.at(-1)?.type)

function open({ base, session }) {
  const address = (name, query = {}) => `${base}/api/${name}?${new URLSearchParams({ id: session, ...query })}`
  const post = (name, body, query) =>
    fetch(address(name, query), { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body ?? {}) })
  const snapshot = async () => (await fetch(address('chat-snapshot'))).json()
  let number = 0
  const send = async (text, parts = []) => {
    const id = `u${(number += 1)}`
    const response = await post('chat', { messages: [{ id, role: 'user', parts: [{ type: 'text', content: text }, ...parts] }] })
    if (response.status !== 202) throw new Error(`${response.status}: ${await response.text()}`)
    return response
  }
  return { post, send, snapshot, follow: (offset) => follow((from) => address('chat-stream', { offset: from, live: 'sse' }), offset) }
}

/** Reads server-sent events from an offset, until `leave` is called or the connection ends. */
function follow(address, offset) {
  const leaving = new AbortController()
  const got = { chunks: [], offset, pieces: 0, leave: () => leaving.abort() }
  read(address(offset), got, leaving.signal).catch((error) => leaving.signal.aborted || Promise.reject(error))
  return got
}

async function read(url, got, signal) {
  const response = await fetch(url, { signal })
  let rest = ''
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const events = (rest + piece).split('\n\n')
    rest = events.pop()
    let data = []
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event)?.[1]
      const body = /^data:(.*)$/m.exec(event)?.[1]
      if (name === 'data') data = JSON.parse(body)
      if (name !== 'control') continue
      got.chunks.push(...data)
      got.pieces += data.length > 0
      got.offset = JSON.parse(body).streamNextOffset
      data = []
    }
    changed()
  }
}

/** A message, its answer in pieces, and the same for a second reader. */
async function conversation({ text, ...options }) {
  const chat = open(options)
  const [first, second] = [chat.follow('-1'), chat.follow('-1')]
  await chat.send(text)
  await Promise.all([first, second].map((reader) => until('the answer is over', () => ended(reader), () => reader)))
  const { messages } = await chat.snapshot()
  return { chunks: first.chunks, pieces: first.pieces, second: second.chunks, text: textOf(first.chunks), messages }
}

/** The connection is cut repeatedly during an answer, and each time resumed from the last offset. */
async function drops({ text, ...options }) {
  const chat = open(options)
  const whole = chat.follow('-1')
  await chat.send(text)
  const chunks = []
  let reader = chat.follow('-1')
  let count = 0
  while (!ended({ chunks })) {
    await until('there is more', () => reader.chunks.length > 0, () => reader)
    reader.leave()
    chunks.push(...reader.chunks)
    count += 1
    reader = chat.follow(reader.offset)
  }
  await until('the answer is over', () => ended(whole), () => whole)
  return { chunks, whole: whole.chunks, count }
}

/** A page that is loaded during an answer: the snapshot, and the chunks from its offset. */
async function reload({ text, ...options }) {
  const chat = open(options)
  const first = chat.follow('-1')
  await chat.send(text)
  await until('the answer has begun', () => has('TEXT_MESSAGE_CONTENT')(first), () => first)
  const midway = await chat.snapshot()
  const page = chat.follow(midway.offset)
  await Promise.all([first, page].map((reader) => until('the answer is over', () => ended(reader), () => reader)))
  return { midway, text: textOf(page.chunks), first: page.chunks[0], messages: (await chat.snapshot()).messages }
}

/** Another client stops the answer. */
async function stop({ text, ...options }) {
  const chat = open(options)
  const reader = chat.follow('-1')
  await chat.send(text)
  await until('the answer has begun', () => has('TEXT_MESSAGE_CONTENT')(reader), () => reader)
  const { stopped } = await (await chat.post('chat-stop')).json()
  await until('the answer is over', () => ended(reader), () => reader)
  return { stopped, chunks: reader.chunks, again: await (await chat.post('chat-stop')).json() }
}

/** A call waits for approval, which the user gives by posting the message with the decision in its part. */
async function approval({ text, approved, ...options }) {
  const chat = open(options)
  const reader = chat.follow('-1')
  await chat.send(text)
  await until('the call waits', () => ended(reader), () => reader)
  const { messages } = await chat.snapshot()
  const call = messages.flatMap(({ parts }) => parts).find(({ type }) => type === 'tool-call')
  const asked = structuredClone(call)
  Object.assign(call, { state: 'approval-responded', approval: { ...call.approval, approved } })
  const { status } = await chat.post('chat', { messages })
  const runs = () => reader.chunks.filter(({ type }) => type === 'RUN_FINISHED').length
  await until('it goes on', () => runs() === 2, () => reader)
  return { asked, status, messages: (await chat.snapshot()).messages }
}

/** A message with a file. */
async function attachment({ text, part, ...options }) {
  const chat = open(options)
  const reader = chat.follow('-1')
  await chat.send(text, [part])
  await until('the answer is over', () => ended(reader), () => reader)
  return { text: textOf(reader.chunks) }
}

await main({ conversation, drops, reload, stop, approval, attachment })
