// A chat whose answers are responses to its requests (?connection=sse, ndjson, xhr-sse or xhr-ndjson). It keeps nothing in the browser: the
// server has the messages, and the id of the answer that runs.

import { fetchHttpStream, fetchServerSentEvents, useChat, xhrHttpStream, xhrServerSentEvents } from '@tanstack/ai-react'
import { useMemo } from 'react'
import { Conversation, stopSession } from './Chat.jsx'

const CONNECTIONS = {
  sse: (api) => fetchServerSentEvents(`${api}/api/chat`),
  ndjson: (api) => fetchHttpStream(`${api}/api/chat/ndjson`),
  'xhr-sse': (api) => xhrServerSentEvents(`${api}/api/chat`),
  'xhr-ndjson': (api) => xhrHttpStream(`${api}/api/chat/ndjson`),
}

export function Resumable({ api, session, kind, pageSize, initialMessages }) {
  const connection = useMemo(() => CONNECTIONS[kind](api), [api, kind])
  const history = pageSize ? { pageSize: Number(pageSize) } : undefined
  const chat = useChat({ threadId: session, connection, persistence: true, history, initialMessages })
  return <Conversation chat={chat} stop={() => stopSession(api, encodeURIComponent(session))} />
}
