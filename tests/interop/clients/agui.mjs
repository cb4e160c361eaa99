// Scenarios of one thread with AG-UI's real client, `HttpAgent`. Each returns facts as JSON; the test checks them.

import { ChatClient } from '@tanstack/ai-client'
import { changed, main, until, within } from './facts.mjs'
import { addresses, fetchJson, openTab } from './tabs.mjs'

/** A thread with `client`, the tested package, on one of the AG-UI routes. */
async function open({ base, session, client, path = '/api/agui' }) {
  const { HttpAgent } = await import(client)
  const urls = addresses(base, session)
  const agent = new HttpAgent({ url: `${base}${path}`, threadId: session })
  let ids = 0

  /** One run. Returns the types and content of its events, and how the promise ended. */
  async function run({ parameters = {}, during } = {}) {
    const facts = { events: [], error: null }
    const subscriber = {
      onEvent: ({ event }) => (facts.events.push(event), changed()),
    }
    const running = agent.runAgent({ tools: [], context: [], ...parameters }, subscriber)
    const ended = running.then(
      () => changed(),
      (error) => ((facts.error = String(error?.message ?? error)), changed()),
    )
    if (during) await during(facts)
    await within('the run has ended', ended, () => facts.events.map(({ type }) => type))
    const messages = JSON.parse(JSON.stringify(agent.messages))
    return { ...facts, types: facts.events.map(({ type }) => type), messages, interrupts: agent.pendingInterrupts ?? [] }
  }

  function say(content) {
    agent.addMessage({ id: `m${(ids += 1)}`, role: 'user', content })
  }

  return {
    agent,
    run,
    say,
    log: async () => (await fetchJson(`${urls.read}&offset=0000000000000000_0000000000000000`)),
    snapshot: () => fetchJson(urls.snapshot),
    stop: () => fetchJson(urls.stop, { method: 'POST' }),
  }
}

/** The user sends each of `texts` in turn. A text is a string or AG-UI's list of parts. */
async function talk({ texts, parameters, ...options }) {
  const thread = await open(options)
  const runs = []
  for (const text of texts) {
    thread.say(text)
    runs.push(await thread.run({ parameters }))
  }
  return { runs, snapshot: await thread.snapshot(), log: await thread.log() }
}

/** A run waits for approval, and the next one answers with the payload or a cancellation. */
async function approval({ text, payload, ...options }) {
  const thread = await open(options)
  thread.say(text)
  const asked = await thread.run()
  const answer = payload === null ? { status: 'cancelled' } : { status: 'resolved', payload }
  const resume = asked.interrupts.map(({ id }) => ({ interruptId: id, ...answer }))
  const done = await thread.run({ parameters: { resume } })
  return { asked, done, snapshot: await thread.snapshot(), log: await thread.log() }
}

/** A run calls a tool of the frontend, which posts the result as a message. */
async function frontendTool({ text, tool, content, ...options }) {
  const thread = await open(options)
  const parameters = { tools: [{ name: tool, description: 'A tool.', parameters: { type: 'object', properties: {} } }] }
  thread.say(text)
  const asked = await thread.run({ parameters })
  const call = asked.messages.flatMap(({ toolCalls }) => toolCalls ?? [])[0]
  thread.agent.addMessage({ id: `${call.id}:tool`, role: 'tool', toolCallId: call.id, content })
  const done = await thread.run({ parameters })
  return { asked, call, done, snapshot: await thread.snapshot(), log: await thread.log() }
}

/** The run is stopped during the answer. */
async function stop({ text, ...options }) {
  const thread = await open(options)
  thread.say(text)
  const stopped = await thread.run({
    during: async (facts) => {
      await until('there is text', () => facts.events.some(({ type }) => type === 'TEXT_MESSAGE_CONTENT'))
      await thread.stop()
    },
  })
  return { stopped, snapshot: await thread.snapshot(), log: await thread.log() }
}

/** A tab with TanStack's durable connection watches the agent's answer. The agent then sees what the tab sent. */
async function watched({ texts, ...options }) {
  const thread = await open(options)
  const tab = openTab(ChatClient, addresses(options.base, options.session))
  await tab.connected()
  thread.say(texts[0])
  let grown = 0
  const run = await thread.run({ during: () => tab.streaming(0).then(() => (grown = tab.answers[0].length)) })
  await tab.ended(1)
  await tab.send(texts[1])
  return { run, grown, tab: tab.state, snapshot: await thread.snapshot() }
}

/** The client disconnects during the answer, which continues. */
async function leave({ text, ...options }) {
  const thread = await open(options)
  thread.say(text)
  const left = await thread.run({
    during: async (facts) => {
      await until('there is text', () => facts.events.some(({ type }) => type === 'TEXT_MESSAGE_CONTENT'))
      thread.agent.abortRun()
    },
  })
  return { left }
}

await main({ approval, frontendTool, leave, stop, talk, watched })
