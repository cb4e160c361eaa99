// Scenarios of tabs whose connection is the served module, with every kind of lost connection.

import { writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { changed, main, until } from './facts.mjs'
import { openProxy } from './proxies.mjs'
import { addresses, fetchJson, openTab, stock, transcript } from './tabs.mjs'

/** The module as a page imports it, with its imports: the server's files, copied to this test's folder. */
async function served(base, folder) {
  await writeFile(`${folder}/package.json`, '{"type":"module"}')
  const names = ['durable-chat.js']
  for (const name of names) {
    const response = await fetch(`${base}/${name}`)
    const source = await response.text()
    await writeFile(`${folder}/${name}`, source)
    const imported = [...source.matchAll(/ from "\.\/(.+?)"/g)].map(([, found]) => basename(found))
    names.push(...imported.filter((found) => !names.includes(found)))
  }
  return import(`${folder}/durable-chat.js`)
}

/** The connections, by name: the module alone, the module around the stock connection, and the stock connection. */
async function connects(base, folder) {
  const { durable } = await served(base, folder)
  return {
    module: (urls, { offset }) => durable({ sendUrl: urls.send, initialOffset: offset }),
    around: (urls, options) => durable(stock(urls, options), { sendUrl: urls.send }),
    stock,
  }
}

/**
 * A sender and a watching tab with the tested connection, each hydrated from the empty session, so that they get
 * every chunk of the log. They connect to `base`; `direct` is the server.
 */
async function open({ base, direct = base, session, client, connect, folder }) {
  const { ChatClient } = await import(client)
  const ways = await connects(direct, folder)
  const urls = addresses(base, session)
  const snapshot = await fetchJson(addresses(direct, session).snapshot)
  const handed = { sender: [], watcher: [] }
  const tab = (chunks) => openTab(ChatClient, urls, { snapshot, connect: ways[connect], onChunk: (chunk) => chunks.push(chunk) })
  const tabs = { sender: tab(handed.sender), watcher: tab(handed.watcher) }
  const fresh = () => openTab(ChatClient, addresses(direct, session))
  return { ...tabs, handed, fresh, direct, session }
}

/** Returns what every tab, including a new one, shows at the end, and whether each got the log chunk by chunk. */
async function picture({ sender, watcher, handed, fresh, direct, session }) {
  const reloaded = fresh()
  await Promise.all([sender, watcher].map((tab) => reloaded.agreesWith(tab)))
  const { messages, activeRun } = await fetchJson(addresses(direct, session).snapshot)
  const log = await wholeLog(`${direct}/v1/stream/chat-${encodeURIComponent(encodeURIComponent(session))}`)
  const told = (chunks) => chunks.filter(({ name }) => name !== 'durable-chat.connected').map(place)
  return {
    snapshot: { transcript: transcript(messages), activeRun },
    tabs: { sender: sender.state, watcher: watcher.state, reloaded: reloaded.state },
    log: log.map(place),
    handed: { sender: told(handed.sender), watcher: told(handed.watcher) },
  }
}

async function wholeLog(url) {
  const chunks = []
  for (let offset = '-1'; ; ) {
    const response = await fetch(`${url}?offset=${offset}`)
    chunks.push(...(await response.json()))
    if (response.headers.has('Stream-Up-To-Date')) return chunks
    offset = response.headers.get('Stream-Next-Offset')
  }
}

/** The fields that distinguish a chunk from the others in its log. */
const place = ({ type, messageId, runId, delta, timestamp }) => JSON.stringify([type, messageId, runId, delta, timestamp])

/** Waits until the answer to `text` grows in both tabs. `sent` is the sender's promise. */
async function answering(session, text) {
  const sent = session.sender.send(text)
  sent.catch(() => {})
  await Promise.all([session.sender, session.watcher].map((tab) => tab.streaming(0)))
  return { sent }
}

const ended = ({ sender, watcher }, count) => Promise.all([sender, watcher].map((tab) => tab.ended(count)))

/** The server is killed during the answer, and the test restarts it. Tabs that reconnect by themselves see the end. */
async function killed({ text, again, pid, ...options }) {
  const session = await open(options)
  await answering(session, text)
  process.kill(pid, 'SIGKILL')
  await ended(session, 1)
  const first = await picture(session)
  await session.sender.send(again)
  await ended(session, 2)
  return { first, second: await picture(session) }
}

/** The server is told to shut down during the answer, and completes it. */
async function deployed({ text, pid, ...options }) {
  const session = await open(options)
  await answering(session, text)
  process.kill(pid, 'SIGTERM')
  await ended(session, 1)
  return picture(session)
}

/**
 * Whether tabs are still subscribed after the server was killed or, without its `pid`, after connections were reset.
 */
async function lost({ base, text, pid, ...options }) {
  const proxy = await openProxy(base, () => {})
  const session = await open({ ...options, base: pid ? base : proxy.base, direct: base })
  await answering(session, text)
  if (pid) process.kill(pid, 'SIGKILL')
  else proxy.cut()
  const tabs = [session.sender, session.watcher]
  await Promise.all(tabs.map((tab) => tab.until('it has given up', ({ client }) => !client.getIsSubscribed())))
  return tabs.map((tab) => tab.state.subscribed)
}

/** Every live read is reset, each at another place: in data, between data and control, in control. */
async function resets({ base, text, ...options }) {
  const proxy = await openProxy(base, ({ live, reads }) => (live ? { bytesAfter: (reads * 67) % 500 } : undefined))
  const session = await open({ ...options, base: proxy.base, direct: base })
  const { sent } = await answering(session, text)
  await sent
  await ended(session, 1)
  return { cuts: proxy.cuts, ...(await picture(session)) }
}

/**
 * During the answer the server is unreachable: reads are reset, then answered 503, and a message sent meanwhile
 * waits.
 */
async function away({ base, text, again, ...options }) {
  let there = true
  const busy = { status: 503, headers: { 'Retry-After': '1' } }
  let busyMax = 0
  const proxy = await openProxy(base, () => {
    if (!there) return { refuse: true }
    return busyMax-- > 0 ? { answer: busy } : undefined
  })
  const session = await open({ ...options, base: proxy.base, direct: base })
  await answering(session, text)
  there = false
  proxy.cut()
  await until('refused', () => proxy.refused.GET >= 2)
  await session.fresh().ended(1)
  const sent = session.watcher.send(again)
  await until('a POST is refused', () => proxy.refused.POST >= 1)
  busyMax = 2
  there = true
  await sent
  await ended(session, 2)
  return { refused: proxy.refused, posts: proxy.posts, ...(await picture(session)) }
}

/** The response to a POST is cut off before its first byte, after the server has accepted the request. */
async function unanswered({ base, text, ...options }) {
  const proxy = await openProxy(base, ({ method, posts }) => (method === 'POST' && posts < 3 ? { unanswered: true } : undefined))
  const session = await open({ ...options, base: proxy.base, direct: base })
  await session.sender.send(text)
  await ended(session, 1)
  return { posts: proxy.posts, cuts: proxy.cuts, ...(await picture(session)) }
}

/** The watcher stops the answer. */
async function stopping({ text, ...options }) {
  const session = await open(options)
  const { sent } = await answering(session, text)
  const stopped = await session.watcher.connection.stop()
  const again = await session.sender.connection.stop()
  await sent
  await ended(session, 1)
  return { stopped, again, ...(await picture(session)) }
}

/** A tab subscribes, unsubscribes and subscribes again during the answer, repeatedly, on one connection. */
async function toggling({ text, ...options }) {
  const session = await open(options)
  const { client, seen } = session.watcher
  await answering(session, text)
  while (seen.terminals === 0) {
    client.unsubscribe()
    client.subscribe()
    const before = session.handed.watcher.length
    await session.watcher.until('another chunk', () => session.handed.watcher.length > before)
  }
  changed()
  await ended(session, 1)
  return picture(session)
}

await main({ away, deployed, killed, lost, resets, stopping, toggling, unanswered })
