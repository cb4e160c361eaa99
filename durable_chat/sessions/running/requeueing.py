"""
Turns that waited when their process died: what is kept of them beside the log, and how they are asked again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from durable_chat.models.base import Model, Output, Turn
from durable_chat.sessions.recovering.dead_runs import WaitingRun
from durable_chat.sessions.recovering.leases import read_claim
from durable_chat.sessions.recovering.plans import Plan, read_plan
from durable_chat.sessions.running.posted import Posted
from durable_chat.sessions.running.run import Job
from durable_chat.sessions.running.turns import Ask, EchoAsk, GenerationAsk, Opening, PostedAsk


def waiting_plan(job: Job, ask: Ask) -> str:
    """Return what it takes to ask a waiting turn again, as the text of a plan. Empty if that is impossible."""
    plan = job.plan()
    if plan is None:
        return ""
    if isinstance(ask, PostedAsk):
        posted = ask.posted
        kept = msgspec.structs.replace(
            plan, answers=posted.answers, resume=posted.resume, parent_run_id=job.parent_run_id
        )
        return kept.text()
    return "" if job.activity is None else _with_generation(plan, job).text()


def opened_plan(job: Job, opening: Opening, *, waited: bool) -> str:
    """Return the plan of a turn that begins. Until RUN_STARTED is in the log, a turn that waited may be asked again."""
    plan = job.plan(opening.approved, waits=opening.waits) if opening.asks_model else None
    if plan is None:
        return ""
    return (waited and job.activity is not None and _with_generation(plan, job).text()) or plan.text()


def _with_generation(plan: Plan, job: Job) -> Plan:
    return msgspec.structs.replace(plan, activity=job.activity, input=dict(job.input))


def asked_again(
    session_id: str, waiting: WaitingRun, model_of: Callable[[str | None], Model | None], resumes_max: int
) -> tuple[Job, Ask] | None:
    """
    Return the job and the request of a turn that waited, or None if it cannot be answered. `model_of` returns the
    application's model for an activity (None: the chat). At most `resumes_max` processes take up a turn.
    """
    claim = read_claim(waiting.record)
    plan = read_plan(claim.plan)
    if plan is None or claim.epoch - 1 > resumes_max:
        return None
    if plan.approved or plan.waits:  # the answers to its calls are in the log already
        return None
    model = model_of(plan.activity)
    if model is None:
        return None
    job = Job(
        session_id,
        model,
        plan.data,
        tools=plan.tools,
        parent_run_id=plan.parent_run_id,
        activity=plan.activity,
        input=plan.input,
        is_applications=True,
    )
    if plan.activity is not None:
        return job, GenerationAsk()
    if waiting.turn.message is None and not plan.answers and not plan.resume:
        return None
    last_role = "" if waiting.turn.message is None else "user"
    posted = Posted(waiting.turn.message, last_role, answers=plan.answers, resume=plan.resume)
    return job, PostedAsk(posted, getattr(model, "server_tools", frozenset()))


def ended_again(session_id: str, waiting: WaitingRun) -> tuple[Job, Ask]:
    """Return the job and the request of a turn that waited and only shows its message, because it must end."""
    return Job(session_id, _silent), EchoAsk(() if waiting.turn.message is None else (waiting.turn.message,))


async def _silent(_turn: Turn, /) -> Output:
    return ()
