// The stock parsers on the responses of the library functions, in an application without a chat.

import { ChatClient, fetchHttpStream, fetchServerSentEvents } from '@tanstack/ai-client'
import { main } from './facts.mjs'

const CONNECTIONS = { sse: fetchServerSentEvents, ndjson: fetchHttpStream }

/** One message with TanStack's client: what it shows, and what it says of failures. */
async function tanstack({ url, wire, text }) {
  const errors = []
  const client = new ChatClient({ connection: CONNECTIONS[wire](url), onError: (error) => errors.push(error.message) })
  await client.sendMessage(text)
  const answer = client.getMessages().filter((message) => message.role === 'assistant')
  const parts = answer.flatMap((message) => message.parts)
  return { parts: parts.map(({ type, content, state, output }) => ({ type, content, state, output })), errors, status: client.getStatus?.() }
}

main({ tanstack })
