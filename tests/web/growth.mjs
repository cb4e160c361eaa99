// How work grows with its input. It is the processor's time, repeated until the clock can tell, so that a busy machine
// does not count.

import assert from "node:assert/strict";

const ATTEMPTS = 10; // only what fails takes them all
const GROWTH = 32;
const FACTOR_MAX = 128; // what is linear takes 32 times as long, what is quadratic 1,024: there is room for caches and collections
const ROUND_MS = 5; // many times the grain of the clock

/** Milliseconds of one run. */
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
 * `make(n)` prepares work on an input of size n, and gives it back as a function. What grows too fast does so each time;
 * what a neighbour's load made slow does not.
 */
export function assertLinear(make, n) {
  const [short, long] = [make(n), make(n * GROWTH)];
  short(); // what is compiled first is not measured
  let [small, large] = [Infinity, Infinity];
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    small = Math.min(small, timed(short));
    large = Math.min(large, timed(long));
    if (large <= small * FACTOR_MAX) return;
  }
  const message = `${n} took ${small.toFixed(2)} ms, ${n * GROWTH} took ${large.toFixed(2)} ms: ${(large / small).toFixed(1)} times as long`;
  assert.fail(message);
}
