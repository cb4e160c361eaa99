// An AG-UI agent whose edits are known to the server as edits.

import { HttpAgent } from '@ag-ui/client'

/**
 * assistant-ui gives an edited message a new id and posts the messages before it. To the server that looks like a new
 * message from a page that has not seen the rest. This agent posts an edited message under the id of the original.
 */
export class DurableAgent extends HttpAgent {
  known = []
  originals = new Map()

  constructor(config) {
    super(config)
    this.subscribe({ onRunFinalized: ({ messages }) => { this.known = messages } })
  }

  requestInit(input) {
    const last = input.messages.at(-1)
    if (last?.role === 'user' && !this.known.some(({ id }) => id === last.id)) {
      const before = new Set(input.messages.map(({ id }) => id))
      const at = this.known.findLastIndex(({ id }) => before.has(id))
      const original = this.known.slice(at + 1).find(({ role }) => role === 'user')
      if (original) this.originals.set(last.id, this.originals.get(original.id) ?? original.id)
    }
    const messages = input.messages.map((message) => ({ ...message, id: this.originals.get(message.id) ?? message.id }))
    return super.requestInit({ ...input, messages })
  }
}
