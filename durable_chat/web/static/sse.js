// Server-sent events out of bytes that arrive cut anywhere.

/** Splits text into events; what is not complete yet waits for the next piece. */
export class EventParser {
  #rest = []; // pieces of a line without its end; joined once, or a long line would cost the square of its length
  #name = "";
  #data = [];

  /** The events that `text` completes, as `{name, data}`. Comments (pings) and unknown fields are skipped. */
  push(text) {
    const events = [];
    const mayEnd = /[\r\n]/.test(text) || this.#rest.at(-1)?.endsWith("\r");
    if (text !== "") this.#rest.push(text);
    if (!mayEnd) return events;
    const lines = this.#rest.join("").split(/\r\n|\n|\r(?!$)/);
    this.#rest = [lines.pop()];
    for (const line of lines) {
      if (line === "") this.#finish(events);
      else this.#field(line);
    }
    return events;
  }

  #finish(events) {
    if (this.#data.length) events.push({ name: this.#name || "message", data: this.#data.join("\n") });
    this.#name = "";
    this.#data = [];
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#name = value;
  }
}
