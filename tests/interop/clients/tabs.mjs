// A tab: the real ChatClient on the real durable connection, and what a person in front of it would have seen.

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

/** What must be equal everywhere: ids, roles, parts. */
export function transcript(messages) {
  return JSON.parse(JSON.stringify(messages.map(({ id, role, parts }) => ({ id, role, parts }))))
}

/** For each user message the text of what was answered, over all the messages of its turn. */
function answers(messages) {
  const turns = []
  for (const { role, parts } of messages) {
    if (role === 'user') turns.push('')
    else turns.push((turns.pop() ?? '') + parts.map((part) => (part.type === 'text' ? part.content : '')).join(''))
  }
  return turns
}

/** The stock connection, as a page makes it. */
export function stock(urls, { offset, replay = false } = {}) {
  return durableStreamConnection({
    sendUrl: urls.send,
    readUrl: urls.read,
    initialOffset: offset,
    emitSnapshotOnSubscribe: !replay,
  })
}

/** The connections that a scenario may name. */
export const CONNECTS = {
  stock,
  module: (urls, { offset }) => durable({ sendUrl: urls.send, initialOffset: offset }),
}

/**
 * Opens a tab on a session. With `snapshot` (`{messages, offset}`) it begins as a page does that a server rendered;
 * without, as one that knows nothing: then its first picture is the catch-up read, folded by the transport itself, or
 * with `replay` by the client. `tools` are those that this tab carries out; `connect` makes its connection, and `threadId`
 * is the session for one that posts it.
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

  /** What can be told of this tab in JSON. */
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

  /** The first read has been answered: this tab knows the session, also when it is empty. */
  connected() {
    return this.until('the tab is connected', () => this.client.getConnectionStatus() === 'connected')
  }

  /** Sends, and waits until the client itself says that the answer is over. */
  send(text) {
    return within(`the answer to ${JSON.stringify(text)} ends`, this.client.sendMessage(text))
  }

  /** The number of runs that this tab has seen end. */
  ended(terminals) {
    return this.until(`${terminals} runs have ended`, ({ seen, client }) => {
      return seen.terminals >= terminals && !client.getSessionGenerating()
    })
  }

  /** The client itself says that it is done with `finished` turns, and ready for the next. */
  ready(finished) {
    return this.until(`ready after ${finished} turns`, ({ seen, client }) => {
      return seen.finished >= finished && client.getStatus() === 'ready'
    })
  }

  /** The client itself has said of each run it saw that it is over, one way or the other. */
  told() {
    return this.until('told of every run', ({ seen }) => seen.finished + seen.errors.length >= seen.runs)
  }

  /** The answer of turn `turn` (0 is the first) is growing in front of this tab. */
  streaming(turn) {
    return this.until(`answer ${turn} is streaming`, ({ answers, client }) => {
      return client.getSessionGenerating() && (answers[turn]?.length ?? 0) > 0
    })
  }

  /** This tab shows what `other` shows, and nothing is on its way. */
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

/** The same text for values that are the same but for the order of keys. */
export function sortedJson(value) {
  return JSON.stringify(value, (_key, inner) =>
    inner && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
