// A session with several tabs of the real client, and a wait until all of them show the server's messages.

import { changed, until } from './facts.mjs'
import { addresses, CONNECTS, fetchJson, openTab, transcript } from './tabs.mjs'

/** Opens tabs on a session, and reads its state on the server. */
export async function open({ base, session, client = '@tanstack/ai-client', connect = 'stock' }) {
  const { ChatClient } = await import(client)
  const urls = addresses(base, session)
  return {
    tab: (start) => openTab(ChatClient, urls, { connect: CONNECTS[connect], ...start }),
    snapshot: () => fetchJson(urls.snapshot),
    log: () => fetchJson(`${base}/v1/stream/chat-${session}`),
  }
}

/** Waits until no answer is running in any tab and all tabs show the server's messages. */
export async function settled(session, tabs, check = () => true) {
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

/** Returns the parts of a kind in messages. */
export function parts(messages, kind) {
  return messages.flatMap((message) => message.parts.filter(({ type }) => type === kind))
}
