// Scenarios in which the server stops during an answer: this process signals it, and the test restarts it.

import { main } from './facts.mjs'
import { addresses, fetchJson, openTab, transcript } from './tabs.mjs'

const RETRY_MS = 50

async function open({ base, session, client }) {
  const { ChatClient } = await import(client)
  const urls = addresses(base, session)
  const tab = (start) => openTab(ChatClient, urls, start)
  const [sender, watcher] = [tab(), tab()]
  await Promise.all([sender.connected(), watcher.connected()])
  return { urls, tab, sender, watcher }
}

/** The session's snapshot, once a server is ready. */
async function whenReady(base, urls) {
  for (;;) {
    const ready = await fetch(`${base}/readyz`).catch(() => null)
    if (ready?.ok) return fetchJson(urls.snapshot)
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

async function picture(urls, tabs) {
  const { messages, activeRun } = await fetchJson(urls.snapshot)
  return {
    snapshot: { transcript: transcript(messages), activeRun },
    tabs: Object.fromEntries(Object.entries(tabs).map(([name, tab]) => [name, tab.state])),
  }
}

/** Shutdown during an answer: the tabs reconnect by themselves and see its end. */
async function deploy({ text, pid, ...options }) {
  const { urls, sender, watcher } = await open(options)
  sender.send(text).catch(() => {})
  await Promise.all([sender.streaming(0), watcher.streaming(0)])
  process.kill(pid, 'SIGTERM')
  await Promise.all([sender, watcher].map((tab) => tab.ended(1)))
  await watcher.agreesWith(sender)
  return picture(urls, { sender, watcher })
}

/** Kill during an answer: a tab that reloads and a tab that sends see its end, to which it comes by itself or by a stop. */
async function crash({ text, again, pid, stops, ...options }) {
  const { urls, tab, sender, watcher } = await open(options)
  sender.send(text).catch(() => {})
  await Promise.all([sender.streaming(0), watcher.streaming(0)])
  process.kill(pid, 'SIGKILL')
  const snapshot = await whenReady(options.base, urls)
  const reloaded = tab({ snapshot })
  const before = { activeRun: snapshot.activeRun, generating: reloaded.state.generating }
  if (stops) await fetchJson(urls.stop, { method: 'POST' })
  await watcher.send(again)
  await Promise.all([watcher.ended(2), reloaded.ended(1)])
  await reloaded.agreesWith(watcher)
  return { before, after: await picture(urls, { watcher, reloaded }) }
}

await main({ deploy, crash })
