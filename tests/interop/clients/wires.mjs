// The stock parsers on the library functions' responses, in an application without a chat.

import { ChatClient, fetchHttpStream, fetchServerSentEvents } from '@tanstack/ai-client'
import * as six from 'ai'
import * as seven from 'ai-7'
import { main } from './facts.mjs'

const CONNECTIONS = { sse: fetchServerSentEvents, ndjson: fetchHttpStream }
const SDKS = { 'ai-6': six, 'ai-7': seven }

/** Sends one message with TanStack's client. Returns what it shows, and its reports of failures. */
async function tanstack({ url, wire, text }) {
  const errors = []
  const client = new ChatClient({ connection: CONNECTIONS[wire](url), onError: (error) => errors.push(error.message) })
  await client.sendMessage(text)
  const answer = client.getMessages().filter((message) => message.role === 'assistant')
  const parts = answer.flatMap((message) => message.parts)
  return { parts: parts.map(({ type, content, state, output }) => ({ type, content, state, output })), errors, status: client.getStatus?.() }
}

/** One message with the AI SDK's own transport and reader. */
async function sdk({ url, version, text }) {
  const { DefaultChatTransport, readUIMessageStream } = SDKS[version]
  const transport = new DefaultChatTransport({ api: url })
  const messages = [{ id: 'u1', role: 'user', parts: [{ type: 'text', text }] }]
  const stream = await transport.sendMessages({ trigger: 'submit-message', chatId: 's', messageId: undefined, messages })
  const errors = []
  let message = null
  for await (const read of readUIMessageStream({ stream, onError: (error) => errors.push(error.message ?? String(error)) })) message = read
  const parts = message.parts.map(({ type, text, state, output }) => ({ type, text, state, output }))
  return { parts, errors }
}

main({ tanstack, sdk })
