import { unstable_createMessageConverter as createMessageConverter } from '@assistant-ui/react'

const { toThreadMessages } = createMessageConverter((message) => message)

/** The state of a session: its messages, and whether an answer runs. */
export async function loadState(threadId) {
  const response = await fetch(`/api/assistant-transport?threadId=${encodeURIComponent(threadId)}`)
  if (!response.ok) throw new Error(`The server answered ${response.status}.`)
  return response.json()
}

/** What the components show: the messages of the state, and those on their way to the server. */
export const converter = (state, { pendingCommands, isSending }) => {
  const sent = pendingCommands.filter(({ type }) => type === 'add-message').map(({ message }) => message)
  const pending = sent.map(({ id, parts }) => ({ id, role: 'user', content: parts }))
  return { messages: toThreadMessages([...state.messages, ...pending], isSending), isRunning: isSending }
}
