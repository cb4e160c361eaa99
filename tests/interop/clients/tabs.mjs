// A tab: the real ChatClient on the real durable connection, and what a user would have seen.

import { durableStreamConnection } from '@durable-streams/tanstack-ai-transport'
import { durable } from '../../../durable_chat/web/static/durable-chat.js'
import { changed, until, within } from './facts.mjs'

/** Addresses of one session. */
export function addresses(base, session) {
  const id = encodeURIComponent(session)
  return {
    send: `${base}/api/chat?id=${id}`,
    read: `${base}/api/chat-stream?id=${id}`,
    snapshot: `${base}/api/chat-snapshot?id=${id}`,
    stop: `${base}/api/chat-stop?id=${id}`,
  }
}

export async function fetchJson(url, init) {
  const response = await fetch(url, init)
  if (!response.ok) throw new Error(`${url} answered ${response.status}: ${await response.text()}`)
  return response.json()
}

/** The fields that must be equal in all tabs: ids, roles, parts. */
export function transcript(messages) {
  return JSON.parse(JSON.stringify(messages.map(({ id, role, parts }) => ({ id, role, parts }))))
}

/** Returns the text of the answer to each user message, over all messages of its turn. */
function answers(messages) {
  const turns = []
  for (const { role, parts } of messages) {
    if (role === 'user') turns.push('')
    else turns.push((turns.pop() ?? '') + parts.map((part) => (part.type === 'text' ? part.content : '')).join(''))
  }
  return turns
}

/** The stock connection, as a page creates it. */
export function stock(urls, { offset, replay = false } = {}) {
  return durableStreamConnection({
    sendUrl: urls.send,
    readUrl: urls.read,
    initialOffset: offset,
    emitSnapshotOnSubscribe: !replay,
  })
}

/** The connections that a scenario can name. */
export const CONNECTS = {
  stock,
  module: (urls, { offset }) => durable({ sendUrl: urls.send, initialOffset: offset }),
}

/**
 * Opens a tab on a session. With `snapshot` (`{messages, offset}`) it begins like a page rendered by a server.
 * Without it, the tab has no state: its first messages are the catch-up read, folded by the transport itself, or with
 * `replay` by the client. `tools` are executed by this tab, `connect` creates its connection, and `threadId` is the
 * session for a connection that posts it.
 */
export function openTab(ChatClient, urls, { snapshot, replay, tools, connect = stock, onChunk, threadId } = {}) {
  const seen = { runs: 0, terminals: 0, finished: 0, errors: [], generations: [], connections: [] }
  const connection = connect(urls, { offset: snapshot?.offset, replay })
  const client = new ChatClient({
    connection,
    initialMessages: snapshot?.messages ?? [],
    ...(tools ? { tools } : {}),
    ...(threadId ? { threadId } : {}),
    onChunk: (chunk) => {
      const { type } = chunk
      onChunk?.(chunk)
      if (type === 'RUN_STARTED') seen.runs += 1
      if (type === 'RUN_FINISHED' || type === 'RUN_ERROR') seen.terminals += 1
      changed()
    },
    onFinish: () => ((seen.finished += 1), changed()),
    onError: (error) => (seen.errors.push(error.message), changed()),
    onMessagesChange: changed,
    onLoadingChange: changed,
    onStatusChange: changed,
    onSessionGeneratingChange: (generating) => (seen.generations.push(generating), changed()),
    onConnectionStatusChange: (status) => (seen.connections.push(status), changed()),
  })
  client.subscribe()
  return new Tab(client, seen, connection)
}

class Tab {
  constructor(client, seen, connection) {
    this.client = client
    this.seen = seen
    this.connection = connection
  }

  /** Returns the state of this tab as JSON. */
  get state() {
    return {
      transcript: transcript(this.client.getMessages()),
      status: this.client.getStatus(),
      loading: this.client.getIsLoading(),
      generating: this.client.getSessionGenerating(),
      subscribed: this.client.getIsSubscribed(),
      error: this.client.getError()?.message ?? null,
      ...this.seen,
    }
  }

  get answers() {
    return answers(this.client.getMessages())
  }

  until(what, fact) {
    return until(what, () => fact(this), () => this.state)
  }

  /** The first read has been answered: this tab knows the session, even an empty one. */
  connected() {
    return this.until('the tab is connected', () => this.client.getConnectionStatus() === 'connected')
  }

  /** Sends, and waits until the client itself reports the end of the answer. */
  send(text) {
    return within(`the answer to ${JSON.stringify(text)} ends`, this.client.sendMessage(text))
  }

  /** The number of runs whose end this tab has seen. */
  ended(terminals) {
    return this.until(`${terminals} runs have ended`, ({ seen, client }) => {
      return seen.terminals >= terminals && !client.getSessionGenerating()
    })
  }

  /** The client itself has reported the end of `finished` turns, and is ready for the next. */
  ready(finished) {
    return this.until(`ready after ${finished} turns`, ({ seen, client }) => {
      return seen.finished >= finished && client.getStatus() === 'ready'
    })
  }

  /** The client itself has reported the end of each run that it saw, successful or not. */
  told() {
    return this.until('told of every run', ({ seen }) => seen.finished + seen.errors.length >= seen.runs)
  }

  /** The answer of turn `turn` (0 is the first) is growing in this tab. */
  streaming(turn) {
    return this.until(`answer ${turn} is streaming`, ({ answers, client }) => {
      return client.getSessionGenerating() && (answers[turn]?.length ?? 0) > 0
    })
  }

  /** This tab shows the same as `other`, and no answer is running. */
  agreesWith(other) {
    return until(
      'two tabs agree',
      () => !this.client.getSessionGenerating() && same(this.client.getMessages(), other.client.getMessages()),
      () => ({ this: this.state, other: other.state }),
    )
  }

  close() {
    this.client.unsubscribe()
  }
}

function same(left, right) {
  return sortedJson(transcript(left)) === sortedJson(transcript(right))
}

/** Returns the same text for values that differ only in the order of keys. */
export function sortedJson(value) {
  return JSON.stringify(value, (_key, inner) =>
    inner && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
