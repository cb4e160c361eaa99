// Scenarios of tools with the real TanStack client in several tabs. Each returns facts as JSON; the test judges them.

import { changed, main, until, within } from './facts.mjs'
import { addresses, fetchJson, openTab, transcript } from './tabs.mjs'

async function open({ base, session, client = '@tanstack/ai-client' }) {
  const { ChatClient } = await import(client)
  const urls = addresses(base, session)
  return {
    tab: (start) => openTab(ChatClient, urls, start),
    snapshot: () => fetchJson(urls.snapshot),
    log: () => fetchJson(`${base}/v1/stream/chat-${session}`),
  }
}

/** Nothing is on its way in any tab, and all of them show what the server says. */
async function settled(session, tabs, check = () => true) {
  let told = await session.snapshot()
  const looks = setInterval(() => session.snapshot().then((found) => ((told = found), changed())), 200)
  const same = ({ client }) => text(transcript(client.getMessages())) === text(transcript(told.messages))
  const quiet = ({ client }) => !client.getIsLoading() && !client.getSessionGenerating()
  const all = Object.values(tabs)
  try {
    await until(
      'all tabs show what the server says',
      () => told.activeRun === null && all.every(quiet) && all.every(same) && check(told),
      () => ({ told, tabs: states(tabs) }),
    )
  } finally {
    clearInterval(looks)
  }
  return { transcript: transcript(told.messages), tabs: states(tabs) }
}

function states(tabs) {
  return Object.fromEntries(Object.entries(tabs).map(([name, tab]) => [name, tab.state]))
}

function text(value) {
  return JSON.stringify(value, (_key, inner) =>
    inner && typeof inner === 'object' && !Array.isArray(inner) ? Object.fromEntries(Object.entries(inner).sort()) : inner,
  )
}

/** The parts of a kind in what is shown or told. */
function parts(messages, kind) {
  return messages.flatMap((message) => message.parts.filter(({ type }) => type === kind))
}

/** Two live tabs carry out the same tool of the client, a third one has none. Then the second one sends a message. */
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

/** The sender is asked for approval; `by` answers: itself, a tab that watches, or one that came later. */
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
