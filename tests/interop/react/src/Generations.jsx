// A page with one generation hook (?generate=image&transport=sse). The address names the slot (?id=). It keeps nothing in the browser.

import {
  fetchHttpStream,
  fetchServerSentEvents,
  useGenerateImage,
  useGenerateSpeech,
  useGenerateVideo,
  useSummarize,
  useTranscription,
} from '@tanstack/ai-react'
import { useLayoutEffect, useMemo, useRef, useState } from 'react'

/** The shortest WAV file: its header, and one sample. */
const WAV = 'data:audio/wav;base64,UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=='

const HOOKS = {
  image: [useGenerateImage, (text) => ({ prompt: text })],
  speech: [useGenerateSpeech, (text) => ({ text })],
  transcription: [useTranscription, (text) => ({ audio: WAV, prompt: text })],
  summary: [useSummarize, (text) => ({ text })],
  video: [useGenerateVideo, (text) => ({ prompt: text })],
}

function post(url, input, signal, accept) {
  const headers = { 'content-type': 'application/json', accept }
  return fetch(url, { method: 'POST', headers, body: JSON.stringify(input), signal })
}

async function resultOf(response) {
  const told = await response.json()
  if (!response.ok) throw new Error(told.error)
  return told
}

/** The options of the hook for a transport. A fetcher restores and joins with the handlers of a connection. */
function transportOf(kind, url, slot) {
  const connection = (kind === 'ndjson' ? fetchHttpStream : fetchServerSentEvents)(kind === 'ndjson' ? `${url}/ndjson` : url)
  if (kind === 'sse' || kind === 'ndjson') return { connection }
  const named = `${url}?threadId=${encodeURIComponent(slot)}`
  const fetcher =
    kind === 'direct'
      ? (input, { signal }) => post(named, input, signal, 'application/json').then(resultOf)
      : (input, { signal }) => post(named, input, signal, 'text/event-stream')
  return { fetcher, hydrateGeneration: connection.hydrateGeneration, joinRun: connection.joinRun }
}

export function Generations({ api, slot, kind, transport }) {
  const [useHook, inputOf] = HOOKS[kind]
  const told = useRef({ results: [], progress: [], errors: [], jobs: [], states: [] }).current
  const options = useMemo(() => transportOf(transport, `${api}/api/generate/${kind}`, slot), [api, kind, slot, transport])
  const hook = useHook({
    ...options,
    threadId: slot,
    persistence: true,
    onResult: (result) => void told.results.push(result),
    onProgress: (progress, message) => told.progress.push([progress, message]),
    onError: (error) => told.errors.push(error.message),
    onJobCreated: (jobId) => told.jobs.push(jobId),
    onStatusUpdate: (status) => told.states.push(status),
  })
  const [draft, setDraft] = useState('')
  useLayoutEffect(() => {
    window.generation = { ...told, status: hook.status, result: hook.result, error: hook.error?.message, jobId: hook.jobId }
  })

  function stop() {
    hook.stop()
    fetch(`${api}/api/generate/stop?threadId=${encodeURIComponent(slot)}`, { method: 'POST' })
  }

  const urls = (hook.result?.images ?? []).map((image) => image.url)
  return (
    <main data-status={hook.status} data-progress={told.progress.length + told.states.length}>
      <label>
        Text <input value={draft} onChange={(event) => setDraft(event.target.value)} />
      </label>
      <button onClick={() => hook.generate(inputOf(draft))}>Generate</button>
      <button onClick={stop}>Stop</button>
      <button onClick={hook.reset}>Reset</button>
      {hook.error && <p role="alert">{hook.error.message}</p>}
      {urls.map((url) => (
        <img key={url} src={api + url} alt="generated" />
      ))}
      {hook.result?.audio && <audio src={`data:${hook.result.contentType};base64,${hook.result.audio}`} controls />}
      {hook.result?.url && <video src={api + hook.result.url} controls />}
    </main>
  )
}
