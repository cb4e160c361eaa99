// Waiting for facts: a wait ends when what it waits for is so, and fails with a picture of the state when its time is up.

/** How long one fact may take. The slowest one is a whole answer of the demo model; a busy machine takes longer for it. */
export const FACT_MS = 30_000

const waits = new Set()
let looking = false

/** Says that something has changed. The waits look again once the code that changed it has come to its end. */
export function changed() {
  if (looking) return
  looking = true
  setImmediate(() => {
    looking = false
    for (const look of [...waits]) look()
  })
}

/** Resolves with the first truthy value of `fact`; `state` is what the error shows when there was none in time. */
export function until(what, fact, state = () => undefined) {
  return new Promise((resolve, reject) => {
    const end = (settle, value) => {
      clearTimeout(timer)
      waits.delete(look)
      settle(value)
    }
    const look = () => {
      try {
        const value = fact()
        if (value) end(resolve, value)
      } catch (error) {
        end(reject, error)
      }
    }
    const timer = setTimeout(() => end(reject, new Error(`not in time: ${what}: ${JSON.stringify(state())}`)), FACT_MS)
    waits.add(look)
    look()
  })
}

/** The same for a promise that somebody else made. */
export function within(what, promise, state) {
  const settled = {}
  promise.then(
    (value) => ((settled.value = value), (settled.ok = true), changed()),
    (error) => ((settled.error = error), (settled.ok = false), changed()),
  )
  return until(what, () => 'ok' in settled, state).then(() => {
    if (settled.ok) return settled.value
    throw settled.error
  })
}

/**
 * Runs one of `scenarios` as the command line says (one JSON argument: `scenario` and its options), prints what it
 * returns as one line of JSON and ends the process, whatever is still open.
 */
export async function main(scenarios) {
  const { scenario, ...options } = JSON.parse(process.argv[2])
  process.on('unhandledRejection', (error) => fail(error))
  try {
    const result = await scenarios[scenario](options)
    process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))
  } catch (error) {
    fail(error)
  }
}

function fail(error) {
  process.stderr.write(`${error?.stack ?? error}\n`, () => process.exit(1))
}
