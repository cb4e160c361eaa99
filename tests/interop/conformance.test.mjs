// The official suite of the protocol, against the server at SERVER_URL, whose long polls last LONG_POLL_MS.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({
  baseUrl: process.env.SERVER_URL,
  longPollTimeoutMs: Number(process.env.LONG_POLL_MS),
})
