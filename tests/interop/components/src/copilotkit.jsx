// A page as CopilotKit's guide has it: its provider and its chat, with this server as the runtime. ?id= names the session.

import {
  CopilotChat,
  CopilotKitProvider,
  useAgent,
  useCopilotKit,
  useFrontendTool,
  useHumanInTheLoop,
  useInterrupt,
} from '@copilotkit/react-core/v2'
import '@copilotkit/react-core/v2/styles.css'
import { StrictMode, useEffect } from 'react'
import { createRoot } from 'react-dom/client'
import { z } from 'zod'

const query = new URLSearchParams(window.location.search)
const session = query.get('id')

function Chat() {
  const { agent } = useAgent({ agentId: 'default' })
  // For the test: what the components hold.
  window.agent = agent

  const { copilotkit } = useCopilotKit()
  useEffect(() => {
    if (!query.has('live')) return
    const events = new EventSource(`/api/chat-stream?id=${encodeURIComponent(session)}&offset=now&live=sse`)
    const connect = () => agent.isRunning || copilotkit.connectAgent({ agent })
    let lost = false
    events.onerror = () => (lost = true)
    events.onopen = () => {
      if (lost) connect()
      lost = false
    }
    events.addEventListener('data', ({ data }) => {
      if (JSON.parse(data).some(({ type }) => type === 'RUN_STARTED')) connect()
    })
    return () => events.close()
  }, [agent, copilotkit])

  useFrontendTool({
    name: 'set_color',
    description: 'Set the color of the page.',
    parameters: z.object({ color: z.string() }),
    handler: async ({ color }) => {
      document.body.dataset.color = color
      return { color }
    },
  })
  useHumanInTheLoop({
    name: 'ask_size',
    description: 'Ask the person for a size.',
    parameters: z.object({ question: z.string() }),
    render: ({ args, respond, status }) => (
      <div data-testid="ask-size" data-status={status}>
        {args.question}
        {respond && <button onClick={() => respond({ size: 'large' })}>Large</button>}
      </div>
    ),
  })
  useInterrupt({
    render: ({ interrupt, resolve }) => (
      <div data-testid="approval">
        {interrupt?.message}
        <button onClick={() => resolve({ approved: true })}>Approve</button>
        <button onClick={() => resolve({ approved: false })}>Decline</button>
      </div>
    ),
  })
  return <CopilotChat agentId="default" threadId={session} attachments={{ enabled: true }} />
}

createRoot(document.getElementById('root')).render(
  <StrictMode>
    <CopilotKitProvider
      runtimeUrl="/api/copilotkit"
      useSingleEndpoint={query.has('single') ? true : undefined}
      enableInspector={false}
      onError={({ error, code }) => {
        document.body.dataset.error = `${code}: ${error.message}`
      }}
    >
      <Chat />
    </CopilotKitProvider>
  </StrictMode>,
)
