// Compiled, not run: the types of /durable-chat.js fit the clients they are for, and refuse what is wrong.
import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client";
import { durableStreamConnection } from "@durable-streams/tanstack-ai-transport";
import { ChatError, durable, durableRequest, newId, post } from "../../../durable_chat/web/static/durable-chat.js";

const own = durable({
  sendUrl: "/api/chat?id=s",
  headers: async () => ({ Authorization: "Bearer t" }),
  share: false,
  onState: (state) => state === "live",
});
export const stopped: Promise<string[]> = own.stop({ runId: newId() });
export const client = new ChatClient({ connection: own });

const other = durableStreamConnection({ sendUrl: "/api/chat?id=s", readUrl: "/api/chat-stream?id=s" });
export const around = durable(other, { sendUrl: "/api/chat?id=s" });
export const alsoStopped = around.stop();
export const plain = durable(other);
// @ts-expect-error: without a sendUrl it does not know where to stop
plain.stop();
// @ts-expect-error: where to send is needed
durable({ readUrl: "/api/chat-stream?id=s" });
// @ts-expect-error: no such state
durable({ sendUrl: "", onState: (state: "lively") => state });

const request = durableRequest(fetchServerSentEvents("/api/chat"), { stopOnAbort: true });
export const requestScoped = new ChatClient({ connection: request });
export const requestStopped: Promise<string[]> = request.stop();
// @ts-expect-error: a durable connection is no request-scoped one
durableRequest(own);

export const posted = post("/api/chat?id=s", { attempts: 3 }).catch((error) => {
  if (error instanceof ChatError) return error.retryAfter;
  throw error;
});
