"""Why a request waits: what is known of it goes in, a code and a sentence come out. Pure.

A request that may be claimed waits for a backend to be up, for its leg to open, for its provider's
limits, for those before it, or for a free place: the first of these that holds is the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from carpool.states import ProviderBatchState, QueueState, ServiceClass

MOST_AHEAD = 10_000
"""So many before a request are counted, and no more."""
ALONE_AFTER_LOSSES = 3


class Reason(StrEnum):
    """The codes; each comes with a sentence for a person."""

    BEHIND = "behind"
    """Others go first, or it is next."""
    CAP = "cap"
    """It is next, and every backend that may take it is full."""
    NO_ROUTE = "no_route"
    NO_LIVE_BACKEND = "no_live_backend"
    NOT_YET = "not_yet"
    """The legs to the backends that are up open with time."""
    RATE_LIMITED = "rate_limited"
    BACKING_OFF = "backing_off"
    FOLLOWING = "following"
    SUSPECT = "suspect"
    GATHERING = "gathering"
    """For a provider batch, or in one that is not yet at the provider."""
    PROVIDER = "provider"
    """At the provider, in a provider batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A backend that a request's route leads to, whatever the time."""

    name: str
    up: bool
    """Whether a run of it lives and accepts."""
    opened: bool = False
    """Whether it may claim the request now; only of one that is up."""
    opens_in_seconds: float | None = None
    """Where it is up and only the time is missing."""
    in_flight: int = 0
    capacity: int = 0
    upstream: str | None = None
    """As which of its models it may claim the request now; of several, that which is free first."""
    limited_seconds: float = 0.0
    """For how long its provider's rate limit lets no call of that model through."""
    gathers: bool = False
    paused: bool = False
    """Whether its workers were told to claim nothing."""

    @property
    def full(self) -> bool:
        """Whether no place is free."""
        return self.in_flight >= self.capacity


@dataclass(frozen=True, kw_only=True, slots=True)
class AtProvider:
    """The provider batch that owns a request."""

    backend: str
    state: ProviderBatchState
    window: str
    status: str | None
    """In the provider's words."""
    seconds: float
    """Since it was submitted; before that, since it was made."""
    usual_seconds: float | None
    """How long those of its window took of late, from submission to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is known of a request that waits, or of the first of a group of such."""

    model: str
    service_class: ServiceClass
    state: QueueState = QueueState.WAITING
    routed: bool = True
    """Whether its model has a route at all."""
    servers: Sequence[Server] = ()
    ahead: int | None = None
    """Of its class and model, each team in its turn; with ``earlier`` above `MOST_AHEAD`: more than
    those. None for a group."""
    ordered: bool = True
    """Whether those ahead are surely claimed before it: what is claimed by prefix or in a walk over
    shares has no place of its own."""
    earlier: int = 0
    """Of its model, in classes that go before its own."""
    per_second: float | None = None
    """How many of its model end in a second, of late."""
    retry_seconds: float | None = None
    attempts: int = 0
    """That failed, or were lost."""
    lost: int = 0
    leader: str | None = None
    """The public id of the request whose answer it waits for."""
    provider: AtProvider | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Why something waits; the place of what is next is 1."""

    reason: Reason
    text: str
    place: int | None = None
    eta_seconds: float | None = None
    """Until it has its answer, or (backing off, limited) goes on; None where nobody can say."""


def decide(case: Case) -> Waits:
    """The reason why something waits."""
    if case.provider is not None:
        return _with_provider(case.provider)
    match case.state:
        case QueueState.BACKING_OFF:
            return _backing_off(case)
        case QueueState.FOLLOWING:
            whose = "an identical request" if case.leader is None else case.leader
            return Waits(
                reason=Reason.FOLLOWING,
                text=f"It gets the answer of {whose}, which asks the same and came first.",
            )
        case _:
            return _unserved(case) or _served(case)


def _with_provider(provider: AtProvider) -> Waits:
    if provider.state is not ProviderBatchState.SUBMITTED:
        return Waits(
            reason=Reason.GATHERING,
            text=f"'{provider.backend}' has made a provider batch of it "
            f"{span(provider.seconds)} ago, which is not at the provider yet.",
            eta_seconds=provider.usual_seconds,
        )
    status = "" if provider.status is None else f", which says '{provider.status}'"
    usual = provider.usual_seconds
    left = None if usual is None or usual <= provider.seconds else usual - provider.seconds
    return Waits(
        reason=Reason.PROVIDER,
        text=f"At the provider of '{provider.backend}' for {span(provider.seconds)} in a batch of "
        f"{provider.window}{status}.",
        eta_seconds=left,
    )


def _backing_off(case: Case) -> Waits:
    seconds = max(0.0, case.retry_seconds or 0.0)
    tried = f" after {_count(case.attempts, 'attempt')}" if case.attempts else ""
    return Waits(
        reason=Reason.BACKING_OFF,
        text=f"It is tried again in {span(seconds)}{tried}.",
        eta_seconds=seconds,
    )


def _unserved(case: Case) -> Waits | None:
    """Why nobody may claim it now; None where somebody may."""
    if not case.routed:
        return _stuck(case, Reason.NO_ROUTE, f"There is no route of the model '{case.model}'.")
    if not case.servers:
        name = case.service_class.name.lower()
        text = f"The route of '{case.model}' has no leg for this team's {name} requests."
        return _stuck(case, Reason.NO_ROUTE, text)
    if any(server.opened for server in case.servers):
        return None
    later = [s for s in case.servers if s.opens_in_seconds is not None]
    if later:
        first = min(later, key=lambda server: server.opens_in_seconds or 0.0)
        seconds = max(0.0, first.opens_in_seconds or 0.0)
        text = f"Its route opens to '{first.name}' in {span(seconds)}."
        return _stuck(case, Reason.NOT_YET, text)
    down = [server for server in case.servers if not server.up]
    if not down:
        text = "No leg of its route takes it at today's prices."
        return _stuck(case, Reason.NO_ROUTE, text)
    paused = "; their workers are paused" if all(server.paused for server in down) else ""
    text = f"No backend that may answer it is up ({_names(down)}){paused}."
    return _stuck(case, Reason.NO_LIVE_BACKEND, text)


def _served(case: Case) -> Waits:
    opened = [server for server in case.servers if server.opened]
    quick = [server for server in opened if not server.gathers]
    if case.state is QueueState.SUSPECT:
        company = "alone" if case.lost >= ALONE_AFTER_LOSSES else "with few others"
        return _stuck(
            case,
            Reason.SUSPECT,
            f"It was lost with its engine {_count(case.lost, 'time')}, and runs {company} once an "
            "engine is empty.",
        )
    if not quick:
        text = f"{_names(opened)} gathers what waits for a provider batch."
        return _moving(case, Reason.GATHERING, text)
    if all(server.limited_seconds > 0 for server in quick):
        seconds = min(server.limited_seconds for server in quick)
        limits = ", ".join(f"'{server.upstream}' at '{server.name}'" for server in quick)
        text = f"The rate limit of {limits} is used up for {span(seconds)}."
        return _moving(case, Reason.RATE_LIMITED, text, after_seconds=seconds)
    full = all(server.full for server in quick)
    places = sum(server.capacity for server in quick)
    taken = f"all {_count(places, 'place')} of {_names(quick)} are taken" if places > 1 else ""
    taken = taken or f"the one place of {_names(quick)} is taken"
    before = _before(case)
    if before is not None:
        return _moving(case, Reason.BEHIND, f"{before}; {taken}." if full else f"{before}.")
    if full:
        return _moving(case, Reason.CAP, f"{taken[0].upper()}{taken[1:]}.")
    return _moving(case, Reason.BEHIND, "It is next." if case.ahead is not None else "In turn.")


def _before(case: Case) -> str | None:
    """Who goes first; None where nobody does."""
    ahead = case.ahead or 0
    if case.ahead is None:
        return "Behind requests of classes that go first" if case.earlier else None
    if ahead + case.earlier > MOST_AHEAD:
        return f"Behind more than {MOST_AHEAD:,} of its model"
    if case.earlier:
        others = f" and {ahead:,} of its own" if ahead else ""
        return f"Behind {case.earlier:,} of classes that go first{others}"
    if not ahead:
        return None
    if case.ordered:
        return f"Behind {ahead:,} of its class and model"
    return f"Among {ahead:,} others of its class and model, in no order of age"


def _moving(case: Case, reason: Reason, text: str, *, after_seconds: float = 0.0) -> Waits:
    """With its place and an ETA, at the pace of late."""
    before = _counted(case)
    eta = after_seconds or None
    if before is not None and case.per_second and reason is not Reason.GATHERING:
        eta = after_seconds + (before + 1) / case.per_second
    return Waits(reason=reason, text=text, place=_place(case), eta_seconds=eta)


def _stuck(case: Case, reason: Reason, text: str) -> Waits:
    """With its place, and no ETA: it is not on its way."""
    return Waits(reason=reason, text=text, place=_place(case))


def _place(case: Case) -> int | None:
    before = _counted(case)
    return None if before is None or not case.ordered else before + 1


def _counted(case: Case) -> int | None:
    """How many go before it, or may; None where that was not counted to the end."""
    if case.ahead is None or case.ahead + case.earlier > MOST_AHEAD:
        return None
    return case.ahead + case.earlier


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _names(servers: Sequence[Server]) -> str:
    return ", ".join(f"'{server.name}'" for server in servers)


def span(seconds: float) -> str:
    """About how long, for a person: ``4 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{round(seconds / 3600)} h"
