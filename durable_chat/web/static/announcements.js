// Announcements for screen readers: once when an answer begins and once when it ends, not with every word.

/** Mutable: whether the last fold was generating. */
export class Announcer {
  #wasGenerating = false;

  /** Returns the text to announce now, or null if nothing has changed. */
  next(fold) {
    if (fold.generating === this.#wasGenerating) return null;
    this.#wasGenerating = fold.generating;
    return fold.generating ? "Answering" : outcomeOf(fold);
  }

  reset() {
    this.#wasGenerating = false;
  }
}

function outcomeOf({ messages, notes }) {
  const asked = messages.at(-1)?.parts.filter((part) => part.type === "tool-call" && part.state === "approval-requested") ?? [];
  if (asked.length) return `Your approval is needed: ${asked.map(({ name }) => name).join(", ")}`;
  const answer = messages.findLast(({ role }) => role === "assistant");
  const { error, stopped, cut } = notes.get(messages.at(-1)?.id) ?? notes.get(answer?.id) ?? {};
  if (error) return "The answer failed";
  if (stopped) return "The answer was stopped";
  return cut ? "The answer was cut off" : "The answer is complete";
}
