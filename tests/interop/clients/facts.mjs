// Waiting for facts: a wait ends when its condition holds, and fails with a dump of the state when its time is up.

/** The timeout of one fact. The slowest is a whole answer of the demo model, which takes longer on a busy machine. */
export const FACT_MS = 30_000

const waits = new Set()
let looking = false

/** Reports a change. The waits check again after the code that made the change has returned. */
export function changed() {
  if (looking) return
  looking = true
  setImmediate(() => {
    looking = false
    for (const look of [...waits]) look()
  })
}

/** Resolves with the first truthy value of `fact`. `state` is shown in the error after a timeout. */
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

/** The same for another promise. */
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
 * Runs one of `scenarios` as given on the command line (one JSON argument: `scenario` and its options), prints its
 * result as one line of JSON and exits the process, whatever is still open.
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
