// The matrix: scenarios of three turns, each with every kind of reader. Returns facts as JSON; the test judges them.

import { changed, main, until, within } from './facts.mjs'
import { addresses, fetchJson, openTab, sortedJson } from './tabs.mjs'

const SNAPSHOT_POLL_MS = 50
// Each scenario that fails takes as long as a fact may take.
const FAILED_MAX = 3
const GATE = 'test.gate'
const QUEUED = 'durable-chat.turn-queued'

/** One session: its tabs by name, and what was seen at each gate. */
class Session {
  constructor(ChatClient, base, id, turns) {
    Object.assign(this, { ChatClient, base, id, urls: addresses(base, id), tabs: {}, gates: [], ran: [] })
    if (turns) this.urls.send += `&turns=${turns}`
  }

  open(name, { tool, ...start } = {}) {
    const execute = async () => (this.ran.push(name), changed(), 1)
    const tools = tool && [{ name: tool, __toolSide: 'client', execute }]
    const log = { answers: 0, failed: 0, customs: [] }
    const tab = openTab(this.ChatClient, this.urls, { ...start, tools, onChunk: counting(log) })
    this.tabs[name] = Object.assign(tab, { log })
    return tab
  }

  /** A tab that knows nothing, one that a server rendered, one that folds its catch-up itself: all come now. */
  async openReaders(when) {
    const snapshot = await this.snapshot()
    this.open(`reloaded ${when}`)
    this.open(`rendered ${when}`, { snapshot })
    this.open(`replaying ${when}`, { replay: true })
    return snapshot
  }

  snapshot() {
    return fetchJson(this.urls.snapshot)
  }

  control(path, body) {
    const id = encodeURIComponent(this.id)
    const url = `${this.base}/${path}${path.includes('?') ? '&' : '?'}id=${id}`
    return fetch(url, { method: 'POST', body: body && JSON.stringify(body) })
  }

  /**
   * The model waits at a gate: new tabs come, and all of them come to show the same, but for tab `but`; then the model
   * goes on, unless `stay`.
   */
  async pass(gate, { stay = false, but } = {}) {
    const { sender } = this.tabs
    await custom(sender, GATE, gate)
    const snapshot = await this.openReaders(`at ${gate}`)
    await Promise.all(Object.values(this.tabs).map((tab) => custom(tab, GATE, gate)))
    await this.agree(() => sender.client.getMessages(), but)
    const { [but]: _, ...tabs } = this.states()
    this.gates.push({ gate, activeRun: snapshot.activeRun, tabs })
    if (!stay) await this.control(`open?gate=${gate}`)
  }

  /** Every tab, but for one, shows these messages. */
  agree(messages, but) {
    const same = ([name, tab]) => name === but || sortedJson(shown(tab.client.getMessages())) === sortedJson(shown(messages()))
    return until(
      'every tab shows the same',
      () => Object.entries(this.tabs).every(same),
      () => ({ wanted: shown(messages()), tabs: this.states() }),
    )
  }

  /** Nothing is on its way, and every tab shows what the server says; the picture of that. */
  async settled(check = () => true) {
    let told = await this.snapshot()
    const poll = setInterval(() => this.snapshot().then((found) => ((told = found), changed())), SNAPSHOT_POLL_MS)
    const quiet = ({ client, seen }) => !client.getIsLoading() && !client.getSessionGenerating() && seen.terminals >= seen.runs
    const same = (tab) => sortedJson(shown(tab.client.getMessages())) === sortedJson(shown(told.messages))
    const tabs = () => Object.values(this.tabs)
    try {
      await until(
        'all is quiet, and every tab shows what the server says',
        () => told.activeRun === null && tabs().every(quiet) && tabs().every(same) && check(told),
        () => ({ told, tabs: this.states() }),
      )
    } finally {
      clearInterval(poll)
    }
    return { snapshot: told, tabs: this.states() }
  }

  states() {
    const times = ({ client }) => client.getMessages().map(({ createdAt }) => (createdAt ? new Date(createdAt).toISOString() : null))
    const state = (tab) => structuredClone({ ...tab.state, ...tab.log, times: times(tab) })
    return Object.fromEntries(Object.entries(this.tabs).map(([name, tab]) => [name, state(tab)]))
  }

  close() {
    for (const tab of Object.values(this.tabs)) tab.close()
  }
}

/** Counts what a tab is sent: answers (runs with a message), failures, CUSTOM chunks. */
function counting(log) {
  let spoken = false
  return ({ type, role, name, value }) => {
    if (type === 'RUN_STARTED') spoken = false
    if (type === 'TEXT_MESSAGE_START' && role === 'assistant') spoken = true
    if (type === 'RUN_FINISHED' || type === 'RUN_ERROR') log.answers += spoken
    if (type === 'RUN_ERROR') log.failed += 1
    if (type === 'CUSTOM') log.customs.push([name, value])
    changed()
  }
}

/** The tab has been sent a CUSTOM chunk of this name, with this value where one is given. */
function custom(tab, name, value) {
  const found = (custom) => custom[0] === name && (value === undefined || custom[1] === value)
  return tab.until(`${name} ${value ?? ''}`, ({ log }) => log.customs.some(found))
}

/** The client itself has said of each answer that it is over, one way or the other; it says nothing of empty runs. */
function told(tab) {
  return tab.until('told of every answer', ({ seen, log }) => seen.finished + seen.errors.length >= log.answers)
}

/** What readers must agree on before they are judged. */
function shown(messages) {
  return messages.map(({ id, role, parts }) => ({ id, role, parts }))
}

function ends(messages, text) {
  const last = messages.at(-1)?.parts.at(-1)
  return last?.type === 'text' && last.content === text
}

/** A promise that is awaited later: until then its failure is nobody's. */
function later(promise) {
  promise.catch(() => {})
  return promise
}

/** What is done in the second turn. Each is given the session, the scenario and the gates of each answer. */
const ACTS = {
  async send(session, { gates }) {
    const sent = later(session.tabs.sender.send('question'))
    for (const gate of gates.flat()) await session.pass(gate)
    await sent
  },

  async image(session, { content, gates }) {
    const { sender } = session.tabs
    const sent = later(within('the answer to an image ends', sender.client.sendMessage({ content })))
    for (const gate of gates.flat()) await session.pass(gate)
    await sent
  },

  async stop(session, { gates }) {
    const sent = later(session.tabs.sender.send('question'))
    const all = gates.flat()
    for (const gate of all) await session.pass(gate, { stay: gate === all.at(-1) })
    await fetchJson(session.urls.stop, { method: 'POST' })
    await sent
  },

  async regenerate(session, { gates }) {
    const { sender } = session.tabs
    const sent = later(sender.send('question'))
    for (const gate of gates[0]) await session.pass(gate)
    await sent
    await session.settled()
    const again = later(within('the second answer ends', sender.client.reload()))
    for (const gate of gates[1]) await session.pass(gate)
    await again
  },

  edit: (session, scenario) => edit(session, scenario, 1),
  'edit first': (session, scenario) => edit(session, scenario, 0),

  async queue(session, { gates }) {
    const { sender, watcher } = session.tabs
    const sent = later(sender.send('question'))
    let other
    for (const gate of gates[0]) {
      if (gate === 'never') {
        await custom(sender, GATE, gate)
        const { activeRun } = await session.snapshot()
        await fetchJson(`${session.urls.stop}&runId=${activeRun.runId}`, { method: 'POST' })
        continue
      }
      // A tab that sends into the middle of an answer shows that in two pieces until its own turn comes.
      await session.pass(gate, { stay: gate === 'thinking', but: other && 'watcher' })
      if (gate !== 'thinking') continue
      other = later(watcher.send('me too'))
      await custom(sender, QUEUED)
      await session.control(`open?gate=${gate}`)
    }
    for (const gate of gates[1]) await session.pass(gate)
    await Promise.all([sent, other])
  },

  async steer(session, { gates }) {
    const { sender, watcher } = session.tabs
    const sent = later(sender.send('question'))
    let other
    for (const gate of gates.flat()) {
      // Until its message is heard, the tab that sent it shows it after the answer so far.
      await session.pass(gate, { stay: gate === 'thinking', but: other && gate !== 'heard' ? 'watcher' : undefined })
      if (gate !== 'thinking') continue
      other = later(watcher.send('me too'))
      await custom(sender, QUEUED)
      await session.control(`open?gate=${gate}`)
    }
    await Promise.all([sent, other])
  },

  async approve(session, { gates, approved = true }) {
    const { sender, watcher } = session.tabs
    const sent = later(sender.send('question'))
    for (const gate of gates[0]) await session.pass(gate)
    await sent
    await session.settled()
    await session.openReaders('while asked')
    await session.settled()
    const call = watcher.client.getMessages().at(-1).parts.find(({ type }) => type === 'tool-call')
    const said = later(watcher.client.addToolApprovalResponse({ id: call.approval.id, approved }))
    for (const gate of gates[1]) await session.pass(gate)
    await within('the approval is carried out', said)
  },

  async tool(session, { gates }) {
    const sent = later(session.tabs.sender.send('question'))
    for (const gate of gates.flat()) await session.pass(gate)
    await sent
    await until('both tabs have run the tool', () => session.ran.length >= 2)
  },
}

/** User message `index` is sent again with another text: what an application does to let people edit. */
async function edit(session, { gates }, index) {
  const { sender } = session.tabs
  const sent = later(sender.send('question'))
  for (const gate of gates[0]) await session.pass(gate)
  await sent
  await session.settled()
  const messages = sender.client.getMessages()
  const edited = messages.filter(({ role }) => role === 'user')[index]
  sender.client.setMessagesManually(messages.slice(0, messages.indexOf(edited)))
  const again = later(sender.client.sendMessage({ content: 'edited', id: edited.id }))
  for (const gate of gates[1]) await session.pass(gate)
  await within('the edited message is answered', again)
}

/** One scenario between two plain turns; readers come before it, at each of its gates, and after it. */
async function play(ChatClient, base, { name, act, answers, tool, all_told, ...scenario }) {
  const session = new Session(ChatClient, base, `${scenario.session} ${name}`, scenario.turns)
  try {
    await session.control('script', [['Before.'], ...answers, ['Af', 'ter.']])
    const [sender, watcher] = [session.open('sender', { tool }), session.open('watcher', { tool })]
    await Promise.all([sender.connected(), watcher.connected()])
    await sender.send('before')
    await session.settled(({ messages }) => messages.length === 2)
    session.open('rendered before', { snapshot: await session.snapshot() })

    const gates = answers.map((answer) => answer.map(({ gate }) => gate).filter(Boolean))
    await ACTS[act](session, { ...scenario, gates })
    await session.openReaders('after')
    const done = await session.settled()
    await sender.send('after')
    const after = await session.settled(({ messages }) => ends(messages, 'After.'))
    // A tab that answers a call itself lets go of the answer it was watching: its client says nothing of the end of that.
    const silent = (name) => (all_told ? session.ran.includes(name) : name !== 'sender')
    await Promise.all(Object.entries(session.tabs).map(([name, tab]) => silent(name) || told(tab)))
    return { gates: session.gates, done, after: { ...after, tabs: session.states() }, ran: session.ran }
  } catch (error) {
    return { failed: String(error?.message ?? error), gates: session.gates, tabs: session.states() }
  } finally {
    session.close()
  }
}

/** All scenarios with one client, some of them at once. */
async function all({ base, client, scenarios, at_once }) {
  const { ChatClient } = await import(client)
  const left = [...scenarios]
  const facts = {}
  const work = async () => {
    for (let scenario = left.shift(); scenario; scenario = left.shift()) {
      const enough = Object.values(facts).filter(({ failed }) => failed).length >= FAILED_MAX
      facts[scenario.name] = enough ? { failed: 'not played: too many have failed' } : await play(ChatClient, base, scenario)
    }
  }
  await Promise.all(Array.from({ length: at_once }, work))
  return facts
}

await main({ all })
