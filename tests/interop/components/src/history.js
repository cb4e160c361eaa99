import { ExportedMessageRepository } from '@assistant-ui/react'
import { AssistantMessageAccumulator, AssistantTransportDecoder } from 'assistant-stream'

/**
 * The history of an agent's session for `useAgUiRuntime`. `state` is what `loadState` returned. The server keeps the
 * messages, so there is nothing to append.
 */
export const durableHistory = (agent, state) => ({
  async load() {
    agent.known = state.messages
    return { ...ExportedMessageRepository.fromArray(state.messages), unstable_resume: state.isRunning }
  },
  async *resume({ abortSignal }) {
    const response = await fetch('/api/assistant-transport', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ threadId: agent.threadId, commands: [] }),
      signal: abortSignal,
    })
    const reader = response.body
      .pipeThrough(new AssistantTransportDecoder())
      .pipeThrough(new AssistantMessageAccumulator())
      .getReader()
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      const { messages } = step.value.metadata.unstable_state
      const answers = messages.slice(messages.findLastIndex(({ role }) => role === 'user') + 1)
      const { status, metadata } = answers.at(-1) ?? {}
      yield { content: answers.flatMap(({ content }) => content), status, metadata }
    }
  },
  async append() {},
})
