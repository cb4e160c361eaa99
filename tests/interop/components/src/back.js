import { loadState } from './state.js'

/** Calls `resume` with the state when an answer runs after a lost connection. Returns a function that ends this. */
export function whenBack(threadId, resume) {
  const events = new EventSource(`/api/chat-stream?id=${encodeURIComponent(threadId)}&offset=now&live=sse`)
  let lost = false
  events.onerror = () => (lost = true)
  events.onopen = async () => {
    if (!lost) return
    lost = false
    const state = await loadState(threadId)
    if (state.isRunning) resume(state)
  }
  return () => events.close()
}
