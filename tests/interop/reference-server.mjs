// Runs npm's reference server: node reference-server.mjs PORT [FOLDER]; with a folder it keeps streams in files.
import { DurableStreamTestServer } from "@durable-streams/server"

const [port, dataDir] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1", dataDir })
await server.start()
console.log(server.url)

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => server.stop().finally(() => process.exit(0)))
}
