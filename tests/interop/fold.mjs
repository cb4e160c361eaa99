// Folds sequences of chunks as TanStack AI's own client does, one sequence a line, to compare with the Python fold.
// An argument names a folder of node_modules with another version of @tanstack/ai.
import { createInterface } from 'node:readline'

const folder = new URL(`./node_modules/${process.argv[2] ?? '@tanstack/ai'}/dist/esm/`, import.meta.url)
const { StreamProcessor } = await import(new URL('index.js', folder))
// Versions before 0.54 do not convert chunks on arrival.
const { restoreInboundChunk = (chunk) => chunk } = await import(new URL('client.js', folder))

console.warn = console.error = () => {} // the processor warns about missing items in a damaged log

for await (const line of createInterface({ input: process.stdin })) {
  const processor = new StreamProcessor()
  const steps = []
  let before
  for (const chunk of JSON.parse(line)) {
    let failed = null
    try {
      processor.processChunk(restoreInboundChunk(chunk))
    } catch (error) {
      failed = String(error)
    }
    const messages = JSON.stringify(processor.getMessages())
    // Unchanged messages are not repeated.
    steps.push(messages === before ? { failed } : { messages: JSON.parse(messages), failed })
    before = messages
  }
  process.stdout.write(JSON.stringify(steps) + '\n')
}
