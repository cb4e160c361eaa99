// The loaders of docs/guides/server-rendering.md, unchanged: a page is rendered to HTML as its framework does it.
// `frameworks` replaces the frameworks' own modules.

import { symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createElement } from 'react'
import { renderToString } from 'react-dom/server'
import react from '@vitejs/plugin-react'
import { createServer } from 'vite'
import { main } from './facts.mjs'

const INTEROP = dirname(dirname(fileURLToPath(import.meta.url)))

/** What the pages import from their frameworks. A loader of TanStack Start gets its data through `useLoaderData`. */
const frameworks = (cookie) => ({
  'next/headers': `export const headers = async () => new Headers({ cookie: ${JSON.stringify(cookie)} })`,
  '@tanstack/react-start/server': `export const getRequestHeader = (name) => ({ cookie: ${JSON.stringify(cookie)} })[name]`,
  '@tanstack/react-start': `export const createServerFn = () => ({
    inputValidator: (validate) => ({ handler: (handle) => async ({ data }) => handle({ data: validate(data) }) }),
  })`,
  '@tanstack/react-router': `export const createFileRoute = (path) => (options) => {
    const route = { path, options, params: {}, data: undefined }
    return Object.assign(route, { useParams: () => route.params, useLoaderData: () => route.data })
  }`,
})

function framework(cookie) {
  const modules = frameworks(cookie)
  return {
    name: 'frameworks',
    enforce: 'pre',
    resolveId: (id) => (id in modules ? `\0${id}` : undefined),
    load: (id) => modules[id.slice(1)],
  }
}

async function withApp({ base, folder, cookie }, use) {
  process.env.CHAT_SERVER = base
  symlinkSync(join(INTEROP, 'node_modules'), join(folder, 'node_modules'))
  const vite = await createServer({
    root: folder,
    configFile: false,
    logLevel: 'error',
    server: { middlewareMode: true, watch: null, hmr: false, ws: false },
    optimizeDeps: { noDiscovery: true },
    plugins: [framework(cookie ?? ''), react()],
  })
  try {
    return await use((name) => vite.ssrLoadModule(join(folder, name)))
  } finally {
    await vite.close()
  }
}

/** The HTML of the Next.js page: an async component, called as React's server calls it. */
function next({ id, ...app }) {
  return withApp(app, async (load) => {
    const { default: Page } = await load('app/chats/[id]/page.jsx')
    return renderToString(await Page({ params: Promise.resolve({ id }) }))
  })
}

/** The HTML of the TanStack Start route: first its loader, then its component with the loader's data. */
function start({ id, ...app }) {
  return withApp(app, async (load) => {
    const { Route } = await load('routes/chats.$id.jsx')
    Route.params = { id }
    Route.data = await Route.options.loader({ params: { id } })
    return renderToString(createElement(Route.options.component))
  })
}

/** The result of the caching loader, twice, and its requests to the server. */
function cached({ id, ...app }) {
  return withApp(app, async (load) => {
    const { loadChat } = await load('load-chat-cached.js')
    const statuses = []
    const plain = globalThis.fetch
    globalThis.fetch = async (...request) => {
      const response = await plain(...request)
      statuses.push(response.status)
      return response
    }
    return { first: await loadChat(id), second: await loadChat(id), statuses }
  })
}

await main({ next, start, cached })
