// Scenarios of the AI SDK's clients in Node.js. Each returns facts as JSON; the test judges them.

import { main } from './facts.mjs'
import { open, openChat, script, sdkOf, serverOf } from './ai-sdk-chat.mjs'

/** A message is answered, word by word; a second page that is loaded then has the same. */
async function send({ base, client, session, answers, texts }) {
  await script(base, session, answers)
  const tab = openChat({ base, client, session })
  const seen = []
  for (const text of texts) {
    const sent = tab.chat.sendMessage({ text })
    await tab.until('the first word', () => tab.text().length > 0)
    seen.push(tab.text())
    await open(base, session, 'middle')
    await tab.within('the answer', sent)
  }
  return { seen, messages: tab.chat.messages, status: tab.chat.status, told: tab.told, server: await serverOf(base, session) }
}

await main({ send })
