// Folds sequences of chunks as TanStack AI's own client does, one sequence a line: what the Python fold must equal.
import { createInterface } from 'node:readline'
import { StreamProcessor } from '@tanstack/ai'
import { restoreInboundChunk } from '@tanstack/ai/client'

console.warn = console.error = () => {} // the processor warns of what a damaged log lacks

for await (const line of createInterface({ input: process.stdin })) {
  const processor = new StreamProcessor()
  const steps = []
  for (const chunk of JSON.parse(line)) {
    let failed = null
    try {
      processor.processChunk(restoreInboundChunk(chunk))
    } catch (error) {
      failed = String(error)
    }
    steps.push({ messages: processor.getMessages(), failed })
  }
  process.stdout.write(JSON.stringify(steps) + '\n')
}
