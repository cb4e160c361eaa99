"""
Appends by `wrk`, a load generator that is not ours: it is written in C, and a second opinion on the same server.

It posts the same messages to the same streams as `benchmarks.appends`. Its messages are all alike, so what is checked
afterwards is how many there are, and not which.
"""

from __future__ import annotations

import asyncio
import math
import resource
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.appends import STREAM_COUNT, message
from benchmarks.measures import LoadError, Measure, Stopwatch, Target, now_s
from benchmarks.wire import ANSWER_MAX_S, HOST, STREAMS, Connection, create_streams, opened, read_pages

PROGRAM = "wrk"
THREADS = 1
"""One thread fills two shared CPUs with what it asks of the server; a second would take the server's."""

# wrk counts whole seconds.
SECONDS_MIN = 1

_SCRIPT = """
local number = 0
local heads = {{}}
init = function()
  for index = 0, {streams} - 1 do
    local headers = {{["Host"] = "{host}", ["Content-Type"] = "application/json"}}
    heads[index] = wrk.format("POST", "{prefix}append-" .. index, headers, [=[{body}]=])
  end
end
request = function()
  number = number + 1
  return heads[number % {streams}]
end
done = function(summary, latency, requests)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("result %d %d %d %d %d %d\\n", summary.requests, summary.duration, errors.status, lost,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What wrk prints at its end: counts, and microseconds."""

    requests: int
    duration_us: int
    refused: int
    lost: int
    p50_us: int
    p99_us: int

    @property
    def acknowledged(self) -> int:
        return self.requests - self.refused


def script() -> str:
    """The Lua that tells wrk what to send: a request to each stream in turn."""
    return _SCRIPT.format(streams=STREAM_COUNT, prefix=STREAMS, host=HOST, body=message(0, 0).decode())


def result_in(output: str) -> Result:
    """What the script printed. Raises LoadError where it printed nothing."""
    for line in output.splitlines():
        words = line.split()
        if words[:1] == ["result"]:
            return Result(*map(int, words[1:]))
    raise LoadError(f"{PROGRAM} printed no result: {output.strip()[-200:] or 'nothing'}")


async def run(target: Target, connections: int, warm_s: float, seconds: float) -> Measure:
    """Appends acknowledged per second, and wrk's own latencies. Raises LoadError."""
    paths = [f"{STREAMS}append-{index}" for index in range(STREAM_COUNT)]
    begins = await create_streams(target.port, paths)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "appends.lua"
        file.write_text(script())
        warm = await _load(target, file, connections, warm_s)
        watch, spent_s = Stopwatch(target), _children_cpu_s()
        result = await _load(target, file, connections, seconds)
        measure = watch.measure(now_s(), result.acknowledged, ())
        spent_s = _children_cpu_s() - spent_s
    kept = sum([await _count(target.port, path, begin) for path, begin in zip(paths, begins, strict=True)])
    return replace(
        measure,
        rate=result.acknowledged / (result.duration_us / 1e6),
        p50_ms=result.p50_us / 1000,
        p99_ms=result.p99_us / 1000,
        generator_cpu_s=spent_s,
        others_cpu_s=max(0.0, measure.others_cpu_s - spent_s),
        notes=_notes(result),
        faults=faults(warm.acknowledged + result.acknowledged, kept, 2 * connections),
    )


async def _load(target: Target, file: Path, connections: int, seconds: float) -> Result:
    whole_s = max(SECONDS_MIN, math.ceil(seconds))
    url = f"http://{HOST}:{target.port}/"
    command = (PROGRAM, "-t", f"{THREADS}", "-c", f"{connections}", "-d", f"{whole_s}s", "-s", str(file), url)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise LoadError(f"{PROGRAM} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(whole_s + ANSWER_MAX_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise LoadError(f"{PROGRAM} did not end within {whole_s + ANSWER_MAX_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return result_in(output.decode(errors="replace"))


async def _count(port: int, path: str, begin: str) -> int:
    """How many messages a stream holds from an offset on."""
    async with opened(port, Connection) as (connection,):
        pages = [page.body async for page in read_pages(connection, path, begin)]
    return sum(len(msgspec.json.decode(page, type=list[msgspec.Raw])) for page in pages)


def faults(acknowledged: int, kept: int, in_flight_max: int) -> tuple[str, ...]:
    """
    What is wrong with the number of messages kept. wrk leaves while requests are in flight, which may have been kept.
    """
    if kept < acknowledged:
        return (f"{acknowledged - kept} acknowledged and lost",)
    if kept > acknowledged + in_flight_max:
        return (f"{kept - acknowledged} more than were acknowledged, of which {in_flight_max} may have been in flight",)
    return ()


def _notes(result: Result) -> tuple[str, ...]:
    refused = (f"{result.refused} refused",) if result.refused else ()
    return (*refused, *((f"{result.lost} without an answer",) if result.lost else ()))


def _children_cpu_s() -> float:
    """CPU time of the programs that have been started and have ended: the server has not."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
