import { useChat } from '@tanstack/ai-react'
import { useLayoutEffect, useMemo, useState } from 'react'

export function Chat({ api, session, snapshot, connect, live }) {
  const id = encodeURIComponent(session)
  const connection = useMemo(
    () =>
      connect({
        sendUrl: `${api}/api/chat?id=${id}`,
        readUrl: `${api}/api/chat-stream?id=${id}`,
        initialOffset: snapshot.offset,
      }),
    [api, id, snapshot, connect],
  )
  const chat = useChat({ connection, threadId: session, initialMessages: snapshot.messages, live })
  // A connection of requests has a `stop` of its own, where there is one that really stops.
  const stop = () => (connection.connect ? connection.stop() : stopSession(api, id))
  return <Conversation chat={chat} stop={stop} />
}

export function stopSession(api, id) {
  return fetch(`${api}/api/chat-stop?id=${id}`, { method: 'POST' })
}

/** What a person sees of a chat, whatever its connection. */
export function Conversation({ chat, stop }) {
  const [draft, setDraft] = useState('')

  useLayoutEffect(() => {
    // For the test, which compares what several pages hold.
    window.transcript = chat.messages.map(({ id, role, parts }) => ({ id, role, parts }))
  }, [chat.messages])

  function send(event) {
    event.preventDefault()
    setDraft('')
    chat.sendMessage(draft)
  }

  return (
    <main data-generating={chat.sessionGenerating} data-connection={chat.connectionStatus} data-status={chat.status}>
      {chat.hasOlderMessages && <button onClick={chat.loadOlderMessages}>Older</button>}
      <ol>
        {chat.messages.map((message) => (
          <Message key={message.id} {...message} respond={chat.addToolApprovalResponse} />
        ))}
      </ol>
      {chat.error && <p role="alert">{chat.error.message}</p>}
      <form onSubmit={send}>
        <input aria-label="Message" value={draft} onChange={(event) => setDraft(event.target.value)} />
        <button>Send</button>
        <button type="button" onClick={stop}>
          Stop
        </button>
      </form>
    </main>
  )
}

function Message({ role, parts, respond }) {
  return (
    <li data-role={role}>
      {parts.map((part, index) => (
        <Part key={index} part={part} respond={respond} />
      ))}
    </li>
  )
}

function Part({ part, respond }) {
  switch (part.type) {
    case 'text':
      return <p>{part.content}</p>
    case 'thinking':
      return <blockquote>{part.content}</blockquote>
    case 'tool-call':
      return (
        <code>
          {part.name}({part.arguments}) {part.state}
          {part.state === 'approval-requested' && (
            <button onClick={() => respond({ id: part.approval.id, approved: true })}>Approve</button>
          )}
        </code>
      )
    default:
      return null
  }
}
