// Scenarios of one chat session with the real TanStack client. Each returns facts as JSON; the test checks them.

import { materializeSnapshotFromDurableStream } from '@durable-streams/tanstack-ai-transport'
import { main } from './facts.mjs'
import { addresses, CONNECTS, fetchJson, openTab, transcript } from './tabs.mjs'

/** Prepares a scenario: `tab()` opens a tab with the tested client. */
async function open({ base, session, client = '@tanstack/ai-client', connect = 'stock' }) {
  const { ChatClient } = await import(client)
  const urls = addresses(base, session)
  return {
    urls,
    tab: (start) => openTab(ChatClient, urls, { connect: CONNECTS[connect], ...start }),
    snapshot: () => fetchJson(urls.snapshot),
    stop: () => fetchJson(urls.stop, { method: 'POST' }),
  }
}

/** The state of every tab by its name, with the server's snapshot beside them. */
async function picture(session, tabs) {
  const { messages, activeRun } = await session.snapshot()
  return {
    snapshot: { transcript: transcript(messages), activeRun },
    tabs: Object.fromEntries(Object.entries(tabs).map(([name, tab]) => [name, tab.state])),
  }
}

/**
 * One tab sends `texts` in turn, and another one watches from the beginning. Then more tabs open: one hydrated from
 * the snapshot, and two without state. The hydrated one sends `last`. With `echoes` (turns do not begin with a
 * snapshot), a stock tab that only watches does not report that it is ready.
 */
async function conversation({ texts, last, echoes = false, ...options }) {
  const session = await open(options)
  const [sender, watcher] = [session.tab(), session.tab()]
  await Promise.all([sender.connected(), watcher.connected()])
  for (const text of texts) await sender.send(text)
  await Promise.all([sender.ended(texts.length), watcher.ended(texts.length)])

  const late = {
    hydrated: session.tab({ snapshot: await session.snapshot() }),
    replaying: session.tab({ replay: true }),
    reloaded: session.tab(),
  }
  const others = [watcher, ...Object.values(late)]
  await Promise.all(others.map((tab) => tab.agreesWith(sender)))
  if (!echoes) await Promise.all([sender, watcher].map((tab) => tab.ready(texts.length)))
  const tabs = { sender, watcher, ...late }
  const before = await picture(session, tabs)

  const seen = new Map(Object.values(tabs).map((tab) => [tab, { ...tab.seen }]))
  await late.hydrated.send(last)
  await Promise.all([...seen].map(([tab, { terminals }]) => tab.ended(terminals + 1)))
  if (!echoes) await Promise.all([...seen].map(([tab, { finished }]) => tab.ready(finished + 1)))
  await Promise.all(others.map((tab) => tab.agreesWith(sender)))
  return { before, after: await picture(session, tabs) }
}

/** Tabs that opened before the session existed: one without state, one rendered from the empty snapshot. */
async function early({ text, ...options }) {
  const session = await open(options)
  const empty = await session.snapshot()
  const [waiting, rendered] = [session.tab(), session.tab({ snapshot: empty })]
  await waiting.connected()
  const before = { snapshot: empty, waiting: waiting.state, rendered: rendered.state }

  const sender = session.tab()
  await sender.connected()
  await sender.send(text)
  await Promise.all([waiting, rendered].map((tab) => tab.ended(1)))
  await Promise.all([waiting, rendered].map((tab) => tab.agreesWith(sender)))
  await Promise.all([waiting, rendered].map((tab) => tab.ready(1)))
  return { before, after: await picture(session, { sender, waiting, rendered }) }
}

/**
 * Tabs open during the last answer: hydrated from the snapshot, hydrated by the transport's own helper, and two
 * without state. All of them must see the answer grow. It ends by itself, or by `stop`.
 */
async function reload({ texts, stop, ...options }) {
  const session = await open(options)
  const sender = session.tab()
  await sender.connected()
  for (const text of texts.slice(0, -1)) await sender.send(text)
  const turn = texts.length - 1
  const sent = sender.send(texts[turn])
  await sender.streaming(turn)

  const snapshot = await session.snapshot()
  const helped = await materializeSnapshotFromDurableStream({ readUrl: session.urls.read })
  const late = {
    hydrated: session.tab({ snapshot }),
    replaying: session.tab({ replay: true }),
    materialized: session.tab({ snapshot: helped }),
    reloaded: session.tab(),
  }
  const newcomers = Object.values(late)
  await Promise.all(newcomers.map((tab) => tab.streaming(turn)))
  const stopped = stop ? await session.stop() : null
  await sent
  await Promise.all(newcomers.map((tab) => tab.agreesWith(sender)))
  await Promise.all([sender.ready(texts.length), ...newcomers.map((tab) => tab.ready(1))])
  return {
    midway: { activeRun: snapshot.activeRun, snapshot: transcript(snapshot.messages) },
    helped: { sameOffset: helped.offset === snapshot.offset, transcript: transcript(helped.messages) },
    stopped,
    after: await picture(session, { sender, ...late }),
  }
}

/** A tab opens whenever the answer changes to another kind of chunk, and each tab ends with the sender's messages. */
async function moments({ text, ...options }) {
  const session = await open(options)
  const tabs = {}
  const kinds = []
  const sender = session.tab({
    onChunk: ({ type }) => {
      if (type === kinds.at(-1)) return
      kinds.push(type)
      tabs[`${kinds.length} ${type}`] = session.tab()
    },
  })
  await sender.connected()
  const sent = sender.send(text)
  tabs.first = session.tab()
  await sent
  await Promise.all(Object.values(tabs).map((tab) => tab.agreesWith(sender)))
  await Promise.all(Object.values(tabs).map((tab) => tab.told()))
  return { kinds, after: await picture(session, { sender, ...tabs }) }
}

/** The model fails in the first turn. Returns what every tab shows then, and after a second turn that succeeds. */
async function failure({ texts, ...options }) {
  const session = await open(options)
  const [sender, watcher, rendered] = [session.tab(), session.tab(), session.tab({ snapshot: await session.snapshot() })]
  const tabs = { sender, watcher, rendered }
  await Promise.all([sender.connected(), watcher.connected()])
  await sender.send(texts[0])
  await Promise.all(Object.values(tabs).map((tab) => tab.ended(1)))
  const failed = await picture(session, tabs)

  await sender.send(texts[1])
  await Promise.all(Object.values(tabs).map((tab) => tab.ended(2)))
  await Promise.all([watcher, rendered].map((tab) => tab.agreesWith(sender)))
  await Promise.all(Object.values(tabs).map((tab) => tab.ready(1)))
  return { failed, after: await picture(session, tabs) }
}

/** Another client stops a long answer. The sender is released, and a further turn works. */
async function stopping({ texts, ...options }) {
  const session = await open(options)
  const [sender, watcher] = [session.tab(), session.tab()]
  const tabs = { sender, watcher }
  await Promise.all([sender.connected(), watcher.connected()])
  const sent = sender.send(texts[0])
  await Promise.all([sender.streaming(0), watcher.streaming(0)])
  const shown = { sender: sender.answers[0], watcher: watcher.answers[0] }
  const first = await session.stop()
  await sent
  await Promise.all([sender.ended(1), watcher.ended(1)])
  await watcher.agreesWith(sender)
  await Promise.all([sender.ready(1), watcher.ready(1)])
  const stopped = await picture(session, tabs)
  const second = await session.stop()

  await sender.send(texts[1])
  await Promise.all([sender.ended(2), watcher.ended(2)])
  await watcher.agreesWith(sender)
  await Promise.all([sender.ready(2), watcher.ready(2)])
  return { shown, first, second, stopped, after: await picture(session, tabs) }
}

/** A sender that disconnects during the answer cancels nothing: a watching tab sees the whole answer. */
async function leaving({ text, ...options }) {
  const session = await open(options)
  const [sender, watcher] = [session.tab(), session.tab()]
  await Promise.all([sender.connected(), watcher.connected()])
  const sent = sender.send(text)
  await sender.streaming(0)
  const shown = sender.answers[0]
  sender.close()
  await sent
  await watcher.ended(1)
  const back = session.tab()
  await back.agreesWith(watcher)
  return { shown, after: await picture(session, { watcher, back }) }
}

/** Two tabs send at once. Both are released, and both turns are complete, in one order for all. */
async function together({ texts, ...options }) {
  const session = await open(options)
  const [one, two, watcher] = [session.tab(), session.tab(), session.tab()]
  const tabs = { one, two, watcher }
  await Promise.all(Object.values(tabs).map((tab) => tab.connected()))
  const first = one.send(texts[0])
  await two.streaming(0)
  await Promise.all([first, two.send(texts[1])])
  await Promise.all(Object.values(tabs).map((tab) => tab.ended(2)))
  await Promise.all([two, watcher].map((tab) => tab.agreesWith(one)))
  return { after: await picture(session, tabs) }
}

/**
 * The server refuses a message of `length` characters. Returns what the tab shows, and whether it can send another
 * one.
 */
async function refusal({ length, text, ...options }) {
  const session = await open(options)
  const sender = session.tab()
  await sender.connected()
  await sender.send('x'.repeat(length))
  await sender.until('the tab shows an error', ({ client }) => client.getError() !== undefined)
  const refused = await picture(session, { sender })
  sender.client.clear()
  await sender.send(text)
  await sender.ended(1)
  return { refused, after: await picture(session, { sender }) }
}

await main({ conversation, early, failure, leaving, moments, refusal, reload, stopping, together })
