// The same page with `useChat` of the AI SDK: ?sdk=ai-sdk-7-durable names the version and the transport.

import { createDurableChatTransport } from '@durable-streams/aisdk-transport'
import { useLayoutEffect, useState } from 'react'

const SDKS = {
  6: () => Promise.all([import('@ai-sdk/react'), import('ai')]),
  7: () => Promise.all([import('@ai-sdk/react-7'), import('ai-7')]),
}

/** Loads the version, and the session as the server has it. */
export async function loadAiSdk({ api, session, client }) {
  const [{ useChat }, { DefaultChatTransport, ...sdk }] = await SDKS[client.includes('-7') ? 7 : 6]()
  const id = encodeURIComponent(session)
  const response = await fetch(`${api}/api/ai-sdk/${id}/messages`)
  if (!response.ok) throw new Error(`the messages answered ${response.status}`)
  const loaded = await response.json()
  const stopUrl = `${api}/api/ai-sdk/${id}/stop`
  const shared = { useChat, sdk, loaded, stop: () => fetch(stopUrl, { method: 'POST' }) }
  const { activeRun, offset } = loaded
  const query = activeRun ? `?${new URLSearchParams({ runId: activeRun.runId, from: offset })}` : ''
  if (client.endsWith('-durable')) {
    const url = `${api}/api/ai-sdk-durable`
    return { ...shared, transport: createDurableChatTransport({ api: url, reconnectApi: `${url}/${id}/stream${query}` }) }
  }
  if (client.endsWith('-module')) {
    const { aiSdkTransport } = await import(/* @vite-ignore */ `${api}/durable-chat.js`)
    const transport = aiSdkTransport({ api: `${api}/api/ai-sdk`, loaded })
    return { ...shared, transport, stop: () => transport.stop({ chatId: session }) }
  }
  const url = `${api}/api/ai-sdk`
  const prepareReconnectToStreamRequest = () => ({ api: `${url}/${id}/stream${query}` })
  return { ...shared, transport: new DefaultChatTransport({ api: url, prepareReconnectToStreamRequest }) }
}

export function AiSdkChat({ api, session, useChat, sdk, loaded, transport, stop }) {
  const chat = useChat({
    id: session,
    messages: loaded.messages,
    transport,
    resume: true,
    sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithApprovalResponses,
  })
  const [draft, setDraft] = useState('')
  const [files, setFiles] = useState()
  const busy = chat.status === 'submitted' || chat.status === 'streaming'

  useLayoutEffect(() => {
    window.transcript = chat.messages.map(({ id, role, parts }) => ({ id, role, parts }))
  }, [chat.messages])

  function send(event) {
    event.preventDefault()
    setDraft('')
    chat.sendMessage({ text: draft, files })
  }

  return (
    <main data-generating={busy} data-status={chat.status}>
      <ol>
        {chat.messages.map(({ id, role, parts }) => (
          <li key={id} data-role={role}>
            {parts.map((part, index) => (
              <Part key={index} api={api} part={part} respond={chat.addToolApprovalResponse} />
            ))}
          </li>
        ))}
      </ol>
      {chat.error && <p role="alert">{chat.error.message}</p>}
      <form onSubmit={send}>
        <input aria-label="Message" value={draft} onChange={(event) => setDraft(event.target.value)} />
        <input aria-label="Files" type="file" onChange={(event) => setFiles(event.target.files)} />
        <button>Send</button>
        <button type="button" onClick={stop}>
          Stop
        </button>
        <button type="button" onClick={() => chat.regenerate()}>
          Again
        </button>
      </form>
    </main>
  )
}

function Part({ api, part, respond }) {
  if (part.type === 'text') return <p>{part.text}</p>
  if (part.type === 'reasoning') return <blockquote>{part.text}</blockquote>
  if (part.type === 'file') return <img alt={part.filename} src={new URL(part.url, api || window.location.href).href} />
  if (!part.type.startsWith('tool-')) return null
  const say = (approved) => respond({ id: part.approval.id, approved })
  return (
    <code>
      {part.type} {JSON.stringify(part.input)} {part.state}
      {part.state === 'approval-requested' && (
        <>
          <button onClick={() => say(true)}>Approve</button>
          <button onClick={() => say(false)}>Deny</button>
        </>
      )}
    </code>
  )
}
