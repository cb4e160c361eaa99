// Scenarios of the AI SDK's clients in Node.js. Each returns facts as JSON; the test checks them.

import { ChatClient } from '@tanstack/ai-client'
import { main } from './facts.mjs'
import { cutting, open, openChat, script, sdkOf, serverOf } from './ai-sdk-chat.mjs'
import { addresses, openTab, transcript } from './tabs.mjs'

/** Returns what a tab shows, and the server's state. */
async function facts({ base, session }, tabs) {
  const shown = Object.entries(tabs).map(([name, { chat, told }]) => [
    name,
    { messages: chat.messages, status: chat.status, error: chat.error?.message, ...told },
  ])
  return { ...Object.fromEntries(shown), server: await serverOf(base, session) }
}

/** Loads a page: it begins with the server's messages and resumes an answer, even if that has ended by then. */
async function load(options, more = {}) {
  const { messages, activeRun, offset } = await serverOf(options.base, options.session)
  const query = activeRun ? `?${new URLSearchParams({ runId: activeRun.runId, from: offset })}` : ''
  const resume = ({ api, id }) => `${api}/${encodeURIComponent(id)}/stream${query}`
  const durable = { reconnectApi: resume({ api: `${options.base}/api/ai-sdk-durable`, id: options.session }) }
  const native = { prepareReconnectToStreamRequest: (request) => ({ api: resume(request) }) }
  const transport = options.client.endsWith('-durable') ? durable : native
  const tab = openChat({ ...options, transport, ...more, messages })
  tab.resumed = tab.chat.resumeStream()
  tab.began = { messages, activeRun }
  return tab
}

/** Waits until an answer is being written. */
async function running({ base, session }) {
  while ((await serverOf(base, session)).activeRun === null) await new Promise((resolve) => setTimeout(resolve, 10))
}

/** Messages are answered, in pieces. */
async function send(options) {
  const { base, session, answers, texts, automatic } = options
  await script(base, session, answers)
  const { lastAssistantMessageIsCompleteWithToolCalls: complete } = sdkOf(options.client)
  const tab = openChat({ ...options, ...(automatic && { sendAutomaticallyWhen: complete }) })
  const seen = []
  for (const text of texts) {
    const before = tab.text().length
    const sent = tab.chat.sendMessage({ text })
    await tab.until('the first word', () => tab.text().length > before || tab.told.finishes.length > seen.length)
    seen.push(tab.text().slice(before))
    await open(base, session, 'middle')
    await tab.within('the answer', sent)
  }
  return { seen, ...(await facts(options, { tab })) }
}

/** The connection of an answer is lost after each number of events, and resumed. */
async function drops(options) {
  const { base, session, answer, client } = options
  const durable = client.endsWith('-durable')
  if (durable) {
    // @durable-streams/client also rejects a promise that nobody awaits.
    process.removeAllListeners('unhandledRejection')
    process.on('unhandledRejection', (error) => error?.message === 'network error' || process.exit(1))
  }
  const rounds = []
  for (let after = durable ? 1 : 0; ; after++) {
    const name = `${session} ${after}`
    await script(base, name, [answer])
    const lossy = cutting(after, { matches: (url) => !durable || url.includes('/runs/') })
    const real = globalThis.fetch
    if (durable) globalThis.fetch = lossy // the durable transport reads with the global fetch
    let tab = openChat({ ...options, session: name, transport: durable ? {} : { fetch: lossy } })
    const wrote = tab.chat.sendMessage({ text: 'hi' })
    await tab.until('it was lost', () => lossy.cut || tab.text().length > 0)
    if (!lossy.cut) await open(base, name, 'middle')
    await tab.within('the loss', wrote)
    globalThis.fetch = real
    // The stock durable transport does not mark its streams as replays, so only a newly loaded page resumes.
    if (lossy.cut && durable) tab = await load({ ...options, session: name })
    else if (lossy.cut) tab.resumed = tab.chat.resumeStream()
    const over = () => tab.chat.status === 'ready' // there is nothing left to resume
    if (lossy.cut) await tab.until('it is resumed', () => over() || tab.text().length > 0)
    await open(base, name, 'middle')
    await tab.within('the rest', tab.resumed ?? wrote)
    if (lossy.cut && !tab.told.finishes.some(({ isError }) => !isError)) {
      tab.chat.messages = (await serverOf(base, name)).messages // a page does the same
    }
    const { told, ...shown } = { after, cut: lossy.cut, ...(await facts({ base, session: name }, { tab })) }
    rounds.push(shown)
    if (!lossy.cut) return rounds
  }
}

/** Each read of the durable stream ends cleanly after some events, as at a deploy. The client continues by itself. */
async function ends(options) {
  const { base, session, answer } = options
  const rounds = []
  for (let after = 1; ; after++) {
    const name = `${session} ${after}`
    await script(base, name, [answer])
    const lossy = cutting(after, { clean: true, matches: (url) => url.includes('/runs/') })
    const real = globalThis.fetch
    globalThis.fetch = lossy
    const tab = openChat({ ...options, session: name })
    const wrote = tab.chat.sendMessage({ text: 'hi' })
    await tab.until('the first word', () => tab.text().length > 0)
    await open(base, name, 'middle')
    await tab.within('the rest', wrote)
    globalThis.fetch = real
    rounds.push({ after, cut: lossy.cut, ...(await facts({ base, session: name }, { tab })) })
    if (!lossy.cut) return rounds
  }
}

/** A page that is loaded during an answer, beside the sender: both show its end. If requested, one stops it. */
async function second(options) {
  const { base, session, answer, stops } = options
  await script(base, session, [answer])
  const sender = openChat(options)
  const wrote = sender.chat.sendMessage({ text: 'hi' })
  await sender.until('the first word', () => sender.text().length > 0)
  const other = await load(options)
  await other.until('the first word', () => other.text() === sender.text())
  const amid = other.text()
  const stopped = stops && (await fetch(`${base}/api/ai-sdk/${encodeURIComponent(session)}/stop`, { method: 'POST' }))
  await open(base, session, 'middle')
  await Promise.all([sender.within('the answer', wrote), other.within('the rest', other.resumed)])
  const late = await load(options)
  await late.within('nothing to resume', late.resumed)
  const tabs = await facts(options, { sender, other, late })
  return { amid, began: other.began, ...(stops && { stopped: (await stopped.json()).stopped.length }), ...tabs }
}

/** The model fails during its answer. The next message is answered. */
async function failure(options) {
  const { base, session, answers } = options
  await script(base, session, answers)
  const tab = openChat(options)
  await tab.within('the failure', tab.chat.sendMessage({ text: 'hi' }))
  const failed = await facts(options, { tab })
  await tab.within('the next answer', tab.chat.sendMessage({ text: 'again' }))
  return { failed, after: await facts(options, { tab }) }
}

/** A client tool is executed in the sending tab, which continues by itself. Another tab is loaded then. */
async function clientTool(options) {
  const { base, session, answers, fails } = options
  const { lastAssistantMessageIsCompleteWithToolCalls: complete } = sdkOf(options.client)
  await script(base, session, answers)
  const calls = []
  const tab = openChat({
    ...options,
    sendAutomaticallyWhen: complete,
    onToolCall: ({ toolCall: { toolCallId, toolName, input } }) => {
      calls.push({ toolName, input })
      const answer = fails ? { state: 'output-error', errorText: 'No GPS.' } : { output: { city: 'Bern' } }
      tab.chat.addToolOutput({ tool: toolName, toolCallId, ...answer }) // not awaited, because it waits for this callback
    },
  })
  tab.chat.sendMessage({ text: 'where am I?' })
  await tab.until('the whole answer', () => tab.text().endsWith('.') && tab.chat.status !== 'streaming')
  await tab.idle()
  const late = await load(options)
  await late.within('nothing to resume', late.resumed)
  return { calls, ...(await facts(options, { tab, late })) }
}

/** A call waits for approval. `by` decides: the sending tab, or one that was loaded then. */
async function approval(options) {
  const { base, session, answers, approved, by, both } = options
  const { lastAssistantMessageIsCompleteWithApprovalResponses: complete } = sdkOf(options.client)
  await script(base, session, answers)
  const automatic = { sendAutomaticallyWhen: complete }
  const sender = openChat({ ...options, ...automatic })
  await sender.within('the question', sender.chat.sendMessage({ text: 'save it' }))
  const other = await load(options, automatic)
  await other.within('nothing to resume', other.resumed)
  const asked = await facts(options, { sender, other })
  const tabs = { sender, other }
  const part = tabs[by].chat.messages.at(-1).parts.find(({ state }) => state === 'approval-requested')
  tabs[by].chat.addToolApprovalResponse({ id: part.approval.id, approved })
  await tabs[by].until('it goes on', () => tabs[by].chat.status !== 'ready')
  if (both === 'later') {
    // The other tab, which does not know of the first decision, decides the opposite after the end.
    await open(base, session, 'middle')
    await tabs[by].until('it is over', () => tabs[by].chat.status === 'ready' && tabs[by].text().endsWith('.'))
    other.chat.addToolApprovalResponse({ id: part.approval.id, approved: !approved })
    await other.until('it goes on', () => other.chat.status !== 'ready')
    await other.until('it is over', () => other.chat.status === 'ready')
  } else if (both) {
    // The other tab decides the opposite, after the first.
    const late = Object.values(tabs).find((tab) => tab !== tabs[by])
    late.chat.addToolApprovalResponse({ id: part.approval.id, approved: !approved })
    await late.until('it goes on', () => late.chat.status !== 'ready')
    await open(base, session, 'middle')
    await late.until('it is over', () => late.chat.status === 'ready' && late.text().endsWith('.'))
  } else {
    await running(options)
    const watching = await load(options, automatic) // during the continuation
    await open(base, session, 'middle')
    tabs.watching = watching
    await watching.within('the rest', watching.resumed)
  }
  await tabs[by].until('it is over', () => tabs[by].chat.status === 'ready' && tabs[by].text().endsWith('.'))
  tabs.late = await load(options, automatic)
  await tabs.late.within('nothing to resume', tabs.late.resumed)
  return { asked, after: await facts(options, tabs) }
}

/** A file is attached, and another page shows it. */
async function attachment(options) {
  const { base, session, answer, pixel, padding } = options
  await script(base, session, [answer])
  const tab = openChat(options)
  const mediaType = 'image/png'
  const data = Buffer.concat([Buffer.from(pixel, 'base64'), Buffer.alloc(padding)]).toString('base64')
  const url = `data:${mediaType};base64,${data}`
  const files = [{ type: 'file', mediaType, url, filename: 'a picture.png' }]
  await tab.within('the answer', tab.chat.sendMessage({ text: 'look', files }))
  const late = await load(options)
  await late.within('nothing to resume', late.resumed)
  const shown = late.chat.messages[0].parts.find(({ type }) => type === 'file').url
  const response = await fetch(new URL(shown, base))
  const bytes = Buffer.from(await response.arrayBuffer()).toString('base64')
  return { whole: bytes === data, type: response.headers.get('content-type'), ...(await facts(options, { tab, late })) }
}

/** The last answer is regenerated, and then the first message is edited. */
async function again(options) {
  const { base, session, answers } = options
  await script(base, session, answers)
  const tab = openChat(options)
  await tab.within('the answer', tab.chat.sendMessage({ text: 'hi' }))
  const first = await facts(options, { tab })
  await tab.within('the answer again', tab.chat.regenerate())
  const regenerated = await facts(options, { tab })
  await tab.within('the edit', tab.chat.sendMessage({ text: 'bye', messageId: tab.chat.messages[0].id }))
  return { first, regenerated, edited: await facts(options, { tab }) }
}

/** With the server's own transport: every read is lost after some events, then the server is killed and restarted. */
async function lossy(options) {
  const { base, session, answer, after, pid } = options
  await script(base, session, [answer])
  const fetchClient = cutting(after, { always: true, matches: (url) => url.includes('/runs/') })
  const tab = openChat({ ...options, transport: { fetchClient } })
  const wrote = tab.chat.sendMessage({ text: 'hi' })
  await tab.until('the first half', () => tab.text().endsWith('It '))
  const before = tab.text()
  if (pid) process.kill(pid, 'SIGKILL')
  else await open(base, session, 'middle')
  await tab.within('the rest', wrote)
  return { before, cuts: fetchClient.cut, ...(await facts(options, { tab })) }
}

/** The chat's `stop()` also ends the answer on the server, and a resume that replaces another one does not. */
async function stopping(options) {
  const { base, session, answer } = options
  await script(base, session, [answer])
  const tab = openChat({ ...options, transport: { stopOnAbort: true } })
  tab.chat.sendMessage({ text: 'hi' })
  await tab.until('the first word', () => tab.text() === 'Hel')
  const { messages, ...loaded } = await serverOf(base, session)
  const other = openChat({ ...options, messages, transport: { stopOnAbort: true, loaded } })
  const twice = [other.chat.resumeStream(), other.chat.resumeStream()] // as in React's strict mode
  await other.until('the first word', () => other.text() === 'Hel')
  const running = (await serverOf(base, session)).activeRun !== null
  await Promise.all([tab.within('the stop', tab.chat.stop()), ...twice.map((each) => other.within('the end', each))])
  return { running, ...(await facts(options, { tab, other })) }
}

/** TanStack AI begins a chat, the AI SDK continues it, and each answers the other's question. */
async function together(options) {
  const { base, session, answers } = options
  const { lastAssistantMessageIsCompleteWithApprovalResponses: complete } = sdkOf(options.client)
  await script(base, session, answers)
  const stock = openTab(ChatClient, addresses(base, session))
  await stock.connected()
  await stock.send('first')
  await stock.ended(1)
  const sdk = await load(options)
  await sdk.within('nothing to resume', sdk.resumed)
  const sent = sdk.chat.sendMessage({ text: 'look' })
  await sdk.until('the first half', () => sdk.text().endsWith('It '))
  await open(base, session, 'middle')
  await sdk.within('the second answer', sent)
  await stock.ended(2)
  await stock.send('save it')
  await stock.ended(3)
  const decider = await load(options, { sendAutomaticallyWhen: complete })
  await decider.within('nothing to resume', decider.resumed)
  const { approval } = decider.chat.messages.at(-1).parts.find(({ state }) => state === 'approval-requested')
  decider.chat.addToolApprovalResponse({ id: approval.id, approved: true })
  await decider.until('it is done', () => decider.chat.status === 'ready' && decider.text().endsWith('Done.'))
  await stock.ended(4)
  await decider.within('the next question', decider.chat.sendMessage({ text: 'save that' }))
  await stock.ended(5)
  const asked = stock.client.getMessages().flatMap(({ parts }) => parts).find(({ state }) => state === 'approval-requested')
  await stock.client.addToolApprovalResponse({ id: asked.approval.id, approved: false })
  await stock.ended(6)
  const late = await load(options)
  await late.within('nothing to resume', late.resumed)
  const told = await facts(options, { late })
  return { ...told, stock: transcript(stock.client.getMessages()), expected: transcript(told.server.stock) }
}

/** The server is killed during an answer and restarted. The page fails, and a page that is loaded then continues. */
async function crash(options) {
  const { base, session, answer, next, pid } = options
  if (options.client.endsWith('-durable')) {
    process.removeAllListeners('unhandledRejection') // as in `drops`
    process.on('unhandledRejection', () => {})
  }
  await script(base, session, [answer])
  const tab = openChat(options)
  tab.chat.sendMessage({ text: 'hi' })
  await tab.until('the first half', () => tab.text().endsWith('It '))
  process.kill(pid, 'SIGKILL')
  const server = () => serverOf(base, session).catch(() => null)
  while ((await server())?.lastRun?.status !== 'interrupted') await new Promise((resolve) => setTimeout(resolve, 50))
  const late = await load(options)
  await late.within('nothing to resume', late.resumed)
  const before = late.chat.messages
  await script(base, session, [next])
  await late.within('the answer again', late.chat.regenerate())
  return { shown: tab.text(), before, ...(await facts(options, { late })) }
}

await main({ crash, together, lossy, stopping, send, drops, ends, second, failure, clientTool, approval, attachment, again })
