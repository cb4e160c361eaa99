// Chats of the AI SDK in Node.js, in both versions and with each transport, as `useChat` creates them without React.

import * as six from 'ai'
import * as seven from 'ai-7'
import { createDurableChatTransport } from '@durable-streams/aisdk-transport'
import { aiSdkTransport } from '../../../durable_chat/web/static/durable-chat.js'
import { changed, until, within } from './facts.mjs'

const DELIVERED_MS = 20

const SDKS = { 'ai-sdk-6': six, 'ai-sdk-7': seven }

class State {
  #status = 'ready'
  #messages
  error = undefined

  constructor(messages) {
    this.#messages = messages
  }

  get status() {
    return this.#status
  }

  set status(status) {
    this.#status = status
    changed()
  }

  get messages() {
    return this.#messages
  }

  set messages(messages) {
    this.#messages = [...messages]
    changed()
  }

  pushMessage = (message) => (this.messages = [...this.#messages, structuredClone(message)])
  popMessage = () => (this.messages = this.#messages.slice(0, -1))
  replaceMessage = (index, message) => (this.messages = this.#messages.with(index, structuredClone(message)))
  snapshot = (value) => structuredClone(value)
}

/** The parts of the SDK that a scenario needs, by the client's name: `ai-sdk-7-durable`. */
export function sdkOf(client) {
  return SDKS[client.replace(/-(durable|module)$/, '')]
}

/** The transport of a client: the SDK's own, the durable one, or the server's. `options` are those of the transport. */
export function transportOf(client, base, options = {}) {
  if (client.endsWith('-module')) return aiSdkTransport({ api: `${base}/api/ai-sdk`, ...options })
  if (client.endsWith('-durable')) {
    const { fetch: fetchClient, ...rest } = options
    return createDurableChatTransport({ api: `${base}/api/ai-sdk-durable`, fetchClient, ...rest })
  }
  const { DefaultChatTransport } = sdkOf(client)
  return new DefaultChatTransport({ api: `${base}/api/ai-sdk`, ...options })
}

/** A chat, the errors and ends that it reported, and ways to wait for it. */
export function openChat({ base, client, session, messages = [], transport, wrap = (made) => made, ...init }) {
  const { AbstractChat } = sdkOf(client)
  const told = { errors: [], finishes: [], data: [] }
  class Chat extends AbstractChat {
    constructor() {
      super({
        id: session,
        state: new State(messages),
        transport: wrap(transportOf(client, base, transport)),
        onError: (error) => told.errors.push(error.message),
        onFinish: ({ isAbort, isError, finishReason }) => told.finishes.push({ isAbort, isError, finishReason }),
        onData: (part) => told.data.push(part),
        ...init,
      })
    }
  }
  const chat = new Chat()
  const shown = () => ({ status: chat.status, messages: chat.messages, told })
  return {
    chat,
    told,
    until: (what, fact) => until(what, () => fact(chat), shown),
    idle: () => until('it is over', () => chat.status === 'ready' || chat.status === 'error', shown),
    within: (what, promise) => within(what, promise, shown),
    text: () => textOf(chat.messages),
  }
}

export function textOf(messages) {
  const parts = messages.filter(({ role }) => role === 'assistant').flatMap(({ parts }) => parts)
  return parts.filter(({ type }) => type === 'text').map(({ text }) => text).join('')
}

/** The server's state of a session: for this SDK, and for TanStack's clients. */
export async function serverOf(base, session) {
  const get = async (path) => {
    const response = await fetch(`${base}${path}`)
    if (!response.ok) throw new Error(`${path} answered ${response.status}`)
    return response.json()
  }
  const id = encodeURIComponent(session)
  const { messages, activeRun, lastRun, offset } = await get(`/api/ai-sdk/${id}/messages`)
  const stock = await get(`/api/chat-snapshot?id=${id}`)
  return { messages, activeRun, lastRun, offset, stock: stock.messages }
}

export async function script(base, session, answers) {
  const response = await fetch(`${base}/script?id=${encodeURIComponent(session)}`, {
    method: 'POST',
    body: JSON.stringify(answers),
  })
  if (!response.ok) throw new Error(`the script answered ${response.status}`)
}

export const open = (base, session, gate) =>
  fetch(`${base}/open?id=${encodeURIComponent(session)}&gate=${gate}`, { method: 'POST' })

/**
 * A `fetch` whose first stream of events is cut after this many events: with an error, as by a lost connection, or
 * cleanly after this many control events, as servers end reads. With `always`, every stream is cut. `cut` counts the
 * cuts.
 */
export function cutting(after, { clean = false, always = false, matches = () => true } = {}) {
  const real = globalThis.fetch
  const made = async (url, init) => {
    const response = await real(url, init)
    const streams = response.headers.get('content-type')?.startsWith('text/event-stream')
    if ((made.used && !always) || !streams || !matches(String(url))) return response
    made.used = true
    const body = response.body.pipeThrough(cutter(after, clean, () => made.cut++))
    const { status, headers } = response
    return Object.defineProperty(new Response(body, { status, headers }), 'url', { value: response.url })
  }
  made.cut = 0
  made.used = false
  return made
}

function cutter(after, clean, onCut) {
  const decoder = new TextDecoder()
  let rest = ''
  let left = after
  return new TransformStream({
    start: (controller) => void (left === 0 && cut(controller)),
    flush: () => (left === 0 && !clean ? new Promise(() => {}) : undefined), // the end must not come before the error
    transform(piece, controller) {
      rest += decoder.decode(piece, { stream: true })
      for (let at; left > 0 && (at = rest.indexOf('\n\n')) >= 0; ) {
        const event = rest.slice(0, at + 2)
        controller.enqueue(new TextEncoder().encode(event))
        rest = rest.slice(at + 2)
        if (!clean || event.startsWith('event: control')) left--
        if (left === 0) cut(controller)
      }
    },
  })

  function cut(controller) {
    onCut()
    if (clean) return controller.terminate()
    // Later, because an error discards unread data. The message is Chromium's.
    setTimeout(() => controller.error(new TypeError('network error')), DELIVERED_MS)
  }
}
