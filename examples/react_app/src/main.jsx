import { useChat } from '@tanstack/ai-react'
import { useState } from 'react'
import { createRoot } from 'react-dom/client'

// The chat server serves this module. The browser loads it from there: Vite bundles no module that has a full address.
const { durable } = await import(/* @vite-ignore */ `${location.origin}/durable-chat.js`)

const session = new URLSearchParams(location.search).get('id') ?? 'demo'
const id = encodeURIComponent(session)
const snapshot = await (await fetch(`/api/chat-snapshot?id=${id}`)).json()
const connection = durable({ sendUrl: `/api/chat?id=${id}`, initialOffset: snapshot.offset })

function Chat() {
  const [text, setText] = useState('')
  const { messages, sendMessage, sessionGenerating, error } = useChat({
    threadId: session,
    connection,
    initialMessages: snapshot.messages,
    live: true,
  })

  function send(event) {
    event.preventDefault()
    sendMessage(text)
    setText('')
  }

  return (
    <main>
      {messages.map(({ id, role, parts }) => (
        <p key={id} className={role} style={{ whiteSpace: 'pre-wrap' }}>
          {parts.map((part) => (part.type === 'text' ? part.content : ''))}
        </p>
      ))}
      {error && <p role="alert">{error.message}</p>}
      <form onSubmit={send}>
        <input aria-label="Message" required value={text} onChange={(event) => setText(event.target.value)} />
        <button>Send</button>
        <button type="button" disabled={!sessionGenerating} onClick={() => connection.stop()}>
          Stop
        </button>
      </form>
    </main>
  )
}

createRoot(document.getElementById('root')).render(<Chat />)
