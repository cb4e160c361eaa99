// Scenarios of TanStack's real client with request-scoped connections. Each returns facts as JSON; the test checks
// them. A tab with the durable connection watches beside the sender.

import { ChatClient, fetchHttpStream, fetchServerSentEvents } from '@tanstack/ai-client'
import { durableRequest } from '../../../durable_chat/web/static/durable-chat.js'
import { main, within } from './facts.mjs'
import { parts, settled } from './settling.mjs'
import { addresses, fetchJson, openTab } from './tabs.mjs'

const KINDS = {
  sse: (base) => fetchServerSentEvents(`${base}/api/chat`),
  ndjson: (base) => fetchHttpStream(`${base}/api/chat/ndjson`),
}

async function open({ base, session, kind, stops, ...start }) {
  const urls = addresses(base, session)
  const made = KINDS[kind](base)
  const options = { stopUrl: `${base}/api/chat-stop`, stopOnAbort: stops === 'chat' }
  const connection = stops ? durableRequest(made, options) : made
  const sender = openTab(ChatClient, urls, { connect: () => connection, threadId: session, ...start })
  const watcher = openTab(ChatClient, urls)
  await watcher.connected()
  return {
    tabs: { sender, watcher },
    snapshot: () => fetchJson(urls.snapshot),
    log: () => fetchJson(`${base}/v1/stream/chat-${session}`),
  }
}

/** The sender sends each of `texts`, which are strings or lists of parts. */
async function talk({ texts, ...options }) {
  const session = await open(options)
  for (const text of texts) await session.tabs.sender.send(typeof text === 'string' ? text : { content: text })
  const done = await settled(session, session.tabs, ({ messages }) => messages.length >= texts.length)
  return { ...done, log: await session.log() }
}

/** The sender is asked for approval, and decides. */
async function approval({ text, approved, ...options }) {
  const session = await open(options)
  const { sender } = session.tabs
  await sender.send(text)
  await sender.until('it is asked', ({ client }) => parts(client.getMessages(), 'tool-call').some((part) => part.approval))
  const [{ approval }] = parts(sender.client.getMessages(), 'tool-call')
  await within('the answer is over', sender.client.addToolApprovalResponse({ id: approval.id, approved }))
  return settled(session, session.tabs, ({ messages }) => parts(messages, 'text').length > 1)
}

/** The sender has a tool, which the model calls. */
async function clientTool({ text, tool, ...options }) {
  const execute = async () => ({ from: 'sender' })
  const session = await open({ ...options, tools: [{ name: tool, __toolSide: 'client', execute }] })
  await session.tabs.sender.send(text)
  return settled(session, session.tabs, ({ messages }) => parts(messages, 'tool-result').length === 1)
}

/** During the answer: the connection's `stop`, the chat's `stop`, or the same without the module. */
async function stop({ text, stops, ...options }) {
  const session = await open({ ...options, stops })
  const { sender } = session.tabs
  const sending = sender.client.sendMessage(text)
  await sender.streaming(0)
  if (stops === 'connection') await sender.connection.stop()
  else sender.client.stop()
  await within('the sender is done', sending)
  const { watcher } = session.tabs
  await watcher.ended(1)
  return { snapshot: await session.snapshot(), sender: sender.state, watcher: watcher.state }
}

await main({ approval, clientTool, stop, talk })
