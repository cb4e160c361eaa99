// Scenarios of tools with the real TanStack client in several tabs. Each returns facts as JSON; the test checks them.

import { changed, main, until, within } from './facts.mjs'
import { open, parts, settled } from './settling.mjs'

/** Two live tabs execute the same client tool, and a third one has no tool. Then the second one sends a message. */
async function everywhere({ sent, last, tool, fails, ...options }) {
  const session = await open(options)
  const runs = []
  const named = (name) => ({
    name: tool,
    __toolSide: 'client',
    execute: async () => {
      runs.push(name)
      changed()
      if (fails) throw new Error('No GPS.')
      return { from: name }
    },
  })
  const [sender, watcher, plain] = [
    session.tab({ tools: [named('sender')] }),
    session.tab({ tools: [named('watcher')] }),
    session.tab(),
  ]
  const tabs = { sender, watcher, plain }
  await Promise.all(Object.values(tabs).map((tab) => tab.connected()))
  await sender.send(sent)
  await until('both have carried it out', () => runs.length === 2)
  const answered = ({ messages }) => parts(messages, 'tool-result').length === 1 && messages.at(-1).parts.length > 0
  const before = await settled(session, tabs, answered)
  await watcher.send(last)
  const after = await settled(session, tabs, ({ messages }) => messages.length > before.transcript.length)
  return { runs, before, after, log: await session.log() }
}

/** The sender is asked for approval. `by` decides: the sender, a watching tab, or a tab that joined later. */
async function approval({ sent, last, by, approved, both, ...options }) {
  const session = await open(options)
  const [sender, watcher] = [session.tab(), session.tab()]
  await Promise.all([sender.connected(), watcher.connected()])
  await sender.send(sent)
  const tabs = { sender, watcher }
  const asked = await settled(session, tabs, ({ messages }) => parts(messages, 'tool-call').length === 1)
  tabs.later = session.tab({ snapshot: await session.snapshot() })
  const { approval } = parts(tabs[by].client.getMessages(), 'tool-call')[0]
  const say = (tab, word) => tab.client.addToolApprovalResponse({ id: approval.id, approved: word })
  const words = [say(tabs[by], approved)]
  if (both) words.push(say(Object.values(tabs).find((tab) => tab !== tabs[by]), !approved))
  await within('the answers are over', Promise.all(words))
  const done = await settled(session, tabs, ({ messages }) => messages.length > asked.transcript.length)
  await watcher.send(last)
  const after = await settled(session, tabs, ({ messages }) => messages.length > done.transcript.length)
  return { asked, done, after, log: await session.log() }
}

await main({ approval, everywhere })
