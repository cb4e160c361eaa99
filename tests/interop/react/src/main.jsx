// A page as TanStack's guide has it: the address names the session (?id=), the snapshot is its first picture.

import { durableStreamConnection } from '@durable-streams/tanstack-ai-transport'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { Chat } from './Chat.jsx'

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

/** With ?module the connection is the one that the server serves. */
async function loadConnect() {
  if (!query.has('module')) return durableStreamConnection
  const { durable } = await import(/* @vite-ignore */ `${api}/durable-chat.js`)
  return durable
}

const [snapshot, connect] = await Promise.all([loadSnapshot(), loadConnect()])
createRoot(document.getElementById('root')).render(
  <StrictMode>
    <Chat api={api} session={session} snapshot={snapshot} connect={connect} />
  </StrictMode>,
)
