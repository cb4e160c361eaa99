// The history of a session for assistant-ui's runtimes, and the answer that runs, from the server's state of it.

import { ExportedMessageRepository } from '@assistant-ui/react'
import { AssistantMessageAccumulator, AssistantTransportDecoder } from 'assistant-stream'

const api = '/api/assistant-transport'

/** The messages of a session, and whether an answer runs. */
export async function loadState(threadId) {
  const response = await fetch(`${api}?threadId=${encodeURIComponent(threadId)}`)
  if (!response.ok) throw new Error(`the state answered ${response.status}`)
  return response.json()
}

/** What `useAgUiRuntime` takes as `adapters.history`. The server keeps the messages, so there is nothing to append. */
export const durableHistory = (threadId) => ({
  async load() {
    const state = await loadState(threadId)
    return { ...ExportedMessageRepository.fromArray(state.messages), unstable_resume: state.isRunning }
  },
  async *resume({ abortSignal }) {
    const response = await fetch(api, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ threadId, commands: [] }),
      signal: abortSignal,
    })
    const states = response.body.pipeThrough(new AssistantTransportDecoder()).pipeThrough(new AssistantMessageAccumulator())
    const reader = states.getReader()
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      const messages = step.value.metadata.unstable_state.messages
      const answer = messages.slice(messages.findLastIndex(({ role }) => role === 'user') + 1)
      yield { content: answer.flatMap(({ content }) => content), ...answer.at(-1), role: undefined, id: undefined }
    }
  },
  async append() {},
})
