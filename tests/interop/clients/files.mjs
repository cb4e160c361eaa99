// Messages with files with the real TanStack client in several tabs. Each scenario returns facts; the test checks
// them.

import { readFileSync } from 'node:fs'
import { main, within } from './facts.mjs'
import { open, settled } from './settling.mjs'

/** A message is sent, watched, and loaded later in three ways. Then come a further message and another answer to it. */
async function sent({ content: file, last, ...options }) {
  const content = JSON.parse(readFileSync(file))
  const session = await open(options)
  const [sender, watcher] = [session.tab(), session.tab()]
  const tabs = { sender, watcher }
  await Promise.all([sender.connected(), watcher.connected()])
  await sender.send({ content })
  const first = await settled(session, tabs, ({ messages }) => messages.length === 2)
  tabs.reloaded = session.tab()
  tabs.replayed = session.tab({ replay: true })
  tabs.hydrated = session.tab({ snapshot: await session.snapshot() })
  const loaded = await settled(session, tabs)
  await watcher.send(last)
  const next = await settled(session, tabs, ({ messages }) => messages.length === 4)
  await within('the last answer is given again', sender.client.reload())
  const again = await settled(session, tabs, ({ messages }) => messages.at(-1).id !== next.transcript.at(-1).id)
  return { first, loaded, next, again, log: await session.log() }
}

/** A client that never received a snapshot, and so still has the data in its history, requests the answer again. */
async function kept({ content: file, ...options }) {
  const content = JSON.parse(readFileSync(file))
  const session = await open(options)
  const sender = session.tab()
  await sender.connected()
  await sender.send({ content })
  const first = await settled(session, { sender }, ({ messages }) => messages.length === 2)
  const [question, answer] = sender.client.getMessages()
  sender.client.setMessagesManually([{ ...question, parts: posted(content) }, answer])
  await within('the answer is given again', sender.client.reload())
  const again = await settled(session, { sender }, ({ messages }) => messages.at(-1).id !== answer.id)
  return { first, again, log: await session.log() }
}

/** The parts in the client before any response. */
const posted = (content) => content.map((part) => (part.type === 'text' ? { type: 'text', content: part.content } : part))

await main({ kept, sent })
