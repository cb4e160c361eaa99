// Measures how work grows with its input, in processor time, repeated until the clock resolves it, so that other load
// does not count.

import assert from "node:assert/strict";

const ATTEMPTS = 10; // only a failure uses all of them
const GROWTH = 32;
const FACTOR_MAX = 128; // linear work takes 32 times as long, quadratic 1,024; the margin is for caches and collections
const ROUND_MS = 5; // many times the clock's resolution

/** Returns the milliseconds of one run. */
function timed(work) {
  let runs = 0;
  const from = process.cpuUsage();
  for (;;) {
    work();
    runs++;
    const ms = process.cpuUsage(from).user / 1_000;
    if (ms >= ROUND_MS) return ms / runs;
  }
}

/**
 * `make(n)` prepares work on an input of size n and returns it as a function. Work that grows too fast fails each
 * attempt; a delay by other load does not.
 */
export function assertLinear(make, n) {
  const [short, long] = [make(n), make(n * GROWTH)];
  short(); // compilation is not measured
  let [small, large] = [Infinity, Infinity];
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    small = Math.min(small, timed(short));
    large = Math.min(large, timed(long));
    if (large <= small * FACTOR_MAX) return;
  }
  const message = `${n} took ${small.toFixed(2)} ms, ${n * GROWTH} took ${large.toFixed(2)} ms: ${(large / small).toFixed(1)} times as long`;
  assert.fail(message);
}
