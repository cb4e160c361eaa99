import { HttpAgent } from '@ag-ui/client'

/**
 * An AG-UI agent whose edits replace messages on the server. assistant-ui gives an edited message a new id, and posts only
 * what comes before it. Without more, that is a new message of a page that has not seen the rest.
 */
export class DurableAgent extends HttpAgent {
  known = []
  originals = new Map()

  constructor(config) {
    super(config)
    this.subscribe({ onRunFinalized: ({ messages }) => void (this.known = messages) })
  }

  requestInit(input) {
    const last = input.messages.at(-1)
    if (last?.role === 'user' && !this.known.some(({ id }) => id === last.id)) {
      const posted = new Set(input.messages.map(({ id }) => id))
      const next = this.known.findLastIndex(({ id }) => posted.has(id)) + 1
      const original = this.known.slice(next).find(({ role }) => role === 'user')
      if (original) this.originals.set(last.id, this.originals.get(original.id) ?? original.id)
    }
    const messages = input.messages.map((message) => ({ ...message, id: this.originals.get(message.id) ?? message.id }))
    return super.requestInit({ ...input, messages })
  }
}
