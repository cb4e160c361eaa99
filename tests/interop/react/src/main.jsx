// A page as TanStack's guide has it: the address names the session (?id=), the snapshot is its first picture.

import { durableStreamConnection } from '@durable-streams/tanstack-ai-transport'
import { fetchHttpStream, fetchServerSentEvents } from '@tanstack/ai-react'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { Chat } from './Chat.jsx'
import { Generations } from './Generations.jsx'
import { Resumable } from './Resumable.jsx'

const query = new URLSearchParams(window.location.search)
const session = query.get('id')
// The server of the chat may be another origin than the one that serves this page.
const api = query.get('api') ?? ''

/** What a server that renders would have put into the page. A page that has no such server leaves it out: ?plain. */
async function loadSnapshot() {
  if (query.has('plain')) return { messages: [], offset: undefined }
  const response = await fetch(`${api}/api/chat-snapshot?id=${encodeURIComponent(session)}`)
  if (!response.ok) throw new Error(`the snapshot answered ${response.status}`)
  return response.json()
}

/** Connections whose response is the answer: ?request=sse and ?request=ndjson. */
const REQUESTS = {
  sse: () => fetchServerSentEvents(`${api}/api/chat`),
  ndjson: () => fetchHttpStream(`${api}/api/chat/ndjson`),
}
const request = query.get('request')

/** With ?module the connection is the one that the server serves, or gets its `stop` from it. */
async function loadConnect() {
  const made = request ? REQUESTS[request] : durableStreamConnection
  if (!query.has('module')) return made
  const { durable, durableRequest } = await import(/* @vite-ignore */ `${api}/durable-chat.js`)
  return request ? () => durableRequest(made(), { stopUrl: `${api}/api/chat-stop` }) : durable
}

/** With ?sdk it is the page of the AI SDK. */
async function loadPage() {
  if (query.has('sdk')) {
    const { AiSdkChat, loadAiSdk } = await import('./ai-sdk.jsx')
    return <AiSdkChat api={api} session={session} {...(await loadAiSdk({ api, session, client: query.get('sdk') }))} />
  }
  if (query.has('generate')) {
    return <Generations api={api} slot={session} kind={query.get('generate')} transport={query.get('transport')} />
  }
  const kind = query.get('connection')
  if (kind !== null) {
    const initialMessages = query.has('preload') ? (await loadSnapshot()).messages : undefined
    return <Resumable {...{ api, session, kind, initialMessages }} pageSize={query.get('pageSize')} />
  }
  const [snapshot, connect] = await Promise.all([loadSnapshot(), loadConnect()])
  return <Chat api={api} session={session} snapshot={snapshot} connect={connect} live={!request} />
}

createRoot(document.getElementById('root')).render(<StrictMode>{await loadPage()}</StrictMode>)
