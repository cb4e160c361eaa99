// A page of assistant-ui's primitives. ?id= names the session, ?runtime=transport or ag-ui how it is connected.

import {
  ActionBarPrimitive,
  AssistantRuntimeProvider,
  AttachmentPrimitive,
  ComposerPrimitive,
  MessagePrimitive,
  SimpleImageAttachmentAdapter,
  ThreadPrimitive,
  useAui,
  useAuiState,
  useAssistantTransportRuntime,
  makeAssistantTool,
} from '@assistant-ui/react'
import { useAgUiRuntime } from '@assistant-ui/react-ag-ui'
import { StrictMode, useEffect, useMemo } from 'react'
import { createRoot } from 'react-dom/client'
import { DurableAgent } from './agent.js'
import { whenBack } from './back.js'
import { durableHistory } from './history.js'
import { converter, loadState } from './state.js'

const query = new URLSearchParams(window.location.search)
const session = query.get('id')
const runtimes = { transport: TransportChat, 'ag-ui': AgUiChat }

const stop = () => fetch(`/api/chat-stop?id=${encodeURIComponent(session)}`, { method: 'POST' })
const onError = (error) => {
  document.body.dataset.error = error.message
}

function TransportChat({ state }) {
  const runtime = useAssistantTransportRuntime({
    protocol: 'assistant-transport',
    api: '/api/assistant-transport',
    resumeApi: '/api/assistant-transport',
    initialState: state,
    converter,
    headers: {},
    body: { threadId: session },
    capabilities: { edit: true },
    adapters: { attachments: new SimpleImageAttachmentAdapter() },
    onCancel: ({ error }) => {
      if (!error) stop()
    },
    onError,
  })
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <Resume when={state.isRunning} />
      <Chat />
    </AssistantRuntimeProvider>
  )
}

/** Follows the answer that runs when the page is loaded, or after a lost connection. */
function Resume({ when }) {
  const aui = useAui()
  useEffect(() => {
    const resume = () => aui.thread().resumeRun({ parentId: null })
    if (when) resume()
    return whenBack(session, resume)
  }, [])
  return null
}

function AgUiChat({ state }) {
  const agent = useMemo(() => new DurableAgent({ url: '/api/agui', threadId: session }), [])
  const history = useMemo(() => {
    const { resume, ...rest } = durableHistory(agent, state)
    return query.has('repost') ? rest : { ...rest, resume }
  }, [])
  const runtime = useAgUiRuntime({
    agent,
    onError,
    onCancel: stop,
    adapters: { history, attachments: new SimpleImageAttachmentAdapter() },
  })
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ResumeHistory history={history} />
      <Chat />
    </AssistantRuntimeProvider>
  )
}

/** Follows the answer that runs after a lost connection. */
function ResumeHistory({ history }) {
  const aui = useAui()
  useEffect(
    () =>
      whenBack(session, ({ messages }) => {
        const parentId = messages.findLast(({ role }) => role === 'user').id
        aui.thread().resumeRun({ parentId, stream: history.resume })
      }),
    [],
  )
  return null
}

const SetColor = makeAssistantTool({
  toolName: 'set_color',
  description: 'Set the color of the page.',
  parameters: { type: 'object', properties: { color: { type: 'string' } }, required: ['color'] },
  execute: async ({ color }) => {
    document.body.dataset.color = color
    return { color }
  },
})

const approvalsByResult = query.get('runtime') === 'transport'

function Call({ toolName, args, result, approval, addResult, respondToApproval }) {
  const answer = (approved) => (approvalsByResult ? addResult({ approved }) : respondToApproval({ approved }))
  const waits = approval && approval.approved === undefined && result === undefined
  return (
    <div className="call" data-name={toolName} data-done={result !== undefined}>
      {toolName} {JSON.stringify(args)} {result === undefined ? '' : JSON.stringify(result)}
      {waits && <button onClick={() => answer(true)}>Approve</button>}
      {waits && <button onClick={() => answer(false)}>Decline</button>}
    </div>
  )
}

const components = {
  Text: ({ text }) => <p>{text}</p>,
  Reasoning: ({ text }) => <em>{text}</em>,
  Image: ({ image }) => <img src={image} alt="" />,
  tools: { Fallback: Call },
}

const UserMessage = () => (
  <MessagePrimitive.Root className="message" data-role="user">
    <MessagePrimitive.Parts components={components} />
    <MessagePrimitive.Attachments components={{ Attachment: () => <AttachmentPrimitive.Name /> }} />
    <ActionBarPrimitive.Edit>Edit</ActionBarPrimitive.Edit>
  </MessagePrimitive.Root>
)

const EditComposer = () => (
  <ComposerPrimitive.Root>
    <ComposerPrimitive.Input aria-label="Edit" />
    <ComposerPrimitive.Send>Save</ComposerPrimitive.Send>
  </ComposerPrimitive.Root>
)

const AssistantMessage = () => (
  <MessagePrimitive.Root className="message" data-role="assistant">
    <MessagePrimitive.Parts components={components} />
    <MessagePrimitive.Error>
      <span role="alert">failed</span>
    </MessagePrimitive.Error>
    <ActionBarPrimitive.Reload>Again</ActionBarPrimitive.Reload>
  </MessagePrimitive.Root>
)

function Chat() {
  const thread = useAuiState(({ thread }) => thread)
  window.thread = thread
  return (
    <ThreadPrimitive.Root data-running={thread.isRunning} data-loading={thread.isLoading}>
      <SetColor />
      <ThreadPrimitive.Messages components={{ UserMessage, AssistantMessage, UserEditComposer: EditComposer }} />
      <ComposerPrimitive.Root>
        <ComposerPrimitive.AddAttachment>Attach</ComposerPrimitive.AddAttachment>
        <ComposerPrimitive.Input aria-label="Message" />
        <ComposerPrimitive.Send>Send</ComposerPrimitive.Send>
        <ComposerPrimitive.Cancel>Stop</ComposerPrimitive.Cancel>
      </ComposerPrimitive.Root>
    </ThreadPrimitive.Root>
  )
}

const Runtime = runtimes[query.get('runtime')]
const state = await loadState(session)

createRoot(document.getElementById('root')).render(
  <StrictMode>
    <Runtime state={state} />
  </StrictMode>,
)
