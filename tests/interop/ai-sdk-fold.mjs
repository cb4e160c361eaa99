// Folds UI message chunks as the AI SDK's own client does, one list of chunks a line. An argument names the package.
// A line is {message, chunks}: the message that the chunks continue, or null.
import { createInterface } from 'node:readline'

const { readUIMessageStream, uiMessageChunkSchema } = await import(process.argv[2] ?? 'ai')
const schema = uiMessageChunkSchema()

for await (const line of createInterface({ input: process.stdin })) {
  const { message, chunks } = JSON.parse(line)
  const errors = []
  for (const chunk of chunks) {
    const checked = await schema.validate(chunk)
    if (!checked.success) errors.push(`${JSON.stringify(chunk)}: ${checked.error}`)
  }
  const id = chunks.find(({ type, messageId }) => type === 'start' && messageId)?.messageId
  // The object is changed in place, so it also has what no update reports: a step that has just begun.
  const folded = message ?? { id, role: 'assistant', parts: [] }
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk)
      controller.close()
    },
  })
  const updates = readUIMessageStream({ message: folded, stream, onError: (error) => errors.push(String(error)) })
  for await (const _ of updates);
  process.stdout.write(JSON.stringify({ message: folded, errors }) + '\n')
}
