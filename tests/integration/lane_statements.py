"""The statements of a lane, with what a run or an API would give them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from db import (
    batch_jobs,
    batch_sweep,
    cache,
    delivery,
    finish,
    follow,
    gathering,
    provider_batches,
    provider_responses,
    results,
    runs,
    submit,
    sweep,
)
from db.claim import (
    BATCHES,
    CLAIM_BY_AGE,
    CLAIM_BY_AGE_OF_SHARES,
    CLAIM_BY_DEADLINE,
    CLAIM_BY_PREFIX,
    CLAIM_BY_SHARE,
    CLAIM_SUSPECTS,
    LAST_ID,
    LEFT,
    LOWEST_PREFIX,
    NO_ID,
    WAITING,
    WAITING_DEADLINES,
    WAITING_SHARES,
)
from db.end import END
from db.sql import load
from tests.integration.plans import Statements

RUN = UUID(int=1)
NOW = datetime.now(UTC)


def arguments(ids: Sequence[UUID]) -> Statements:
    """The statements of a lane by name, with what a run or an API would give them."""
    one, many = [ids[0]], list(ids[:256])
    epochs = [1] * len(many)
    return {
        "claim_by_age": (
            CLAIM_BY_AGE,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 1], [1, 2], [NO_ID, ids[9]], [64, 64]),
                *(RUN, 1, [LAST_ID, ids[99]]),
            ),
        ),
        "claim_by_age of shares": (
            CLAIM_BY_AGE_OF_SHARES,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 2], [1, 2], [NO_ID, ids[9]], [64, 64]),
                *(RUN, 1, [LAST_ID, ids[99]]),
            ),
        ),
        "claim_by_deadline": (
            CLAIM_BY_DEADLINE,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 1], [1, 2], [NOW, NOW], [NO_ID, ids[9]], [64, 64]),
                *(RUN, 1, [NOW, NOW]),
            ),
        ),
        "claim_by_share": (
            CLAIM_BY_SHARE,
            (
                *(RUN, 1, ["tiny"] * 2, [0, 2], [1, 2], [500, 10_000], [0, 700]),
                *([NO_ID, ids[9]], [64, 64], RUN, 1),
            ),
        ),
        "claim_by_prefix": (
            CLAIM_BY_PREFIX,
            (
                RUN,
                1,
                ["tiny"] * 2,
                [1, 2],
                [0, -5],
                [LOWEST_PREFIX, 5],
                [NO_ID, NO_ID],
                [64, 64],
                RUN,
                1,
            ),
        ),
        "gather": (
            gathering.GATHER,
            (
                *(RUN, RUN, 1, "tiny", 0, [2, 1], [1, 2], [0, 0], [64, 64], [RUN], NOW, NOW),
                *("engine", "tiny", "24h", "", NOW, RUN, 15.0, 1000, [-1, 5], [0, 9], [0, 0]),
                *(False, False),
            ),
        ),
        "gather suspects": (
            gathering.GATHER,
            (
                *(RUN, RUN, 1, "tiny", 0, [2, 1], [1, 2], [0, 0], [64, 64], [RUN], NOW, NOW),
                *("engine", "tiny", "24h", "", NOW, RUN, 15.0, 1000, [-1, 5], [0, 9], [2, 3]),
                *(False, False),
            ),
        ),
        "survey of suspects": (gathering.SURVEY[gathering.BY_LOSS], ("tiny", 1, 1000, 2, 2, -1, 0)),
        "survey by prefix": (gathering.SURVEY[gathering.BY_PREFIX], ("tiny", 1, 1000, 0)),
        "survey by age": (gathering.SURVEY[gathering.BY_AGE], ("tiny", 1, 1000)),
        "survey by share": (gathering.SURVEY[gathering.BY_SHARE], ("tiny", 1, 1000, 2, 5, 9)),
        "hurry by prefix": (
            gathering.HURRY[gathering.BY_PREFIX],
            ("tiny", 1, 1000, 2, False, [RUN], [NOW], 10_000, 0),
        ),
        "hurry by age": (
            gathering.HURRY[gathering.BY_AGE],
            ("tiny", 1, 1000, 2, False, [RUN], [NOW], 10_000),
        ),
        "hurry by share": (
            gathering.HURRY[gathering.BY_SHARE],
            ("tiny", 1, 1000, 2, False, [RUN], [NOW], 10_000, 2, 5, 9),
        ),
        "hurry streams by age": (gathering.HURRY_STREAMS[gathering.BY_AGE], ("tiny", 1, 1000)),
        "hurry streams by share": (
            gathering.HURRY_STREAMS[gathering.BY_SHARE],
            ("tiny", 1, 1000, 1, 5, 9),
        ),
        "count open responses": (provider_responses.COUNT_OPEN, ("engine",)),
        "members": (provider_batches.MEMBERS, (RUN,)),
        "any_member": (provider_batches.ANY_MEMBER, (RUN,)),
        "count_members": (provider_batches.COUNT_MEMBERS, (RUN,)),
        "bodies": (provider_batches.BODIES, (many,)),
        "rows of a provider batch released": (
            provider_batches.RELEASE,
            (RUN, RUN, many, epochs, False),
        ),
        "a provider batch ended": (provider_batches.ENDED, (RUN, RUN, None)),
        "unsent": (provider_responses.UNSENT, (RUN, many, 64)),
        "open responses": (provider_responses.OPEN, (RUN,)),
        "unclaimed": (provider_responses.UNCLAIMED, (RUN,)),
        "any_left": (provider_responses.ANY_LEFT, (RUN,)),
        "claim_suspects": (
            CLAIM_SUSPECTS,
            (RUN, 1, "tiny", 2, 8, RUN, 1, 0, 1, -1, 0, LAST_ID, NOW),
        ),
        "waiting": (WAITING, (["tiny", "none"], [0, 1, 2])),
        "waiting of shares": (WAITING_SHARES, (["tiny", "none"],)),
        "waiting by deadline": (WAITING_DEADLINES, (["tiny", "none"], [0, 1])),
        "waiting with little time left": (LEFT, (["tiny"], 3600.0)),
        "finish": (
            finish.FINISH,
            (
                RUN,
                many,
                epochs,
                epochs,
                epochs,
                [b""] * 256,
                epochs,
                [NOW] * 256,
                epochs,
                epochs,
                epochs,
                ["tiny"] * 256,
                "engine",
                "worker",
                *([epochs] * 5),
            ),
        ),
        "retry": (
            finish.RETRY,
            (RUN, many, epochs, [1.0] * 256, ["503"] * 256, "engine", "worker", [True] * 256),
        ),
        "release": (finish.RELEASE, (RUN, many, epochs)),
        "release_strays": (runs.RELEASE_STRAYS, (RUN, many)),
        "heartbeat": (runs.HEARTBEAT, (RUN, many, epochs, None)),
        "end": (END, (many, None, 2, 409, b"", False, False)),
        "end of a team": (END, (one, 1, 2, 409, b"", False, False)),
        "lose": (sweep.LOSE, (RUN, 2000, 2.0)),
        "dead owners": (sweep.DEAD_OWNERS, ()),
        "promote": (sweep.PROMOTE, (2000,)),
        "overdue": (sweep.OVERDUE, (2000,)),
        "forsaken": (sweep.FORSAKEN, (2000,)),
        "unserved": (sweep.UNSERVED, ()),
        "fold": (batch_sweep.FOLD, (20_000,)),
        "complete": (batch_sweep.COMPLETE, ()),
        "expire": (batch_sweep.EXPIRE, ()),
        "stopped": (batch_sweep.STOPPED, ()),
        "left": (batch_sweep.LEFT, (ids[0], ids[-1], 2000)),
        "idle": (batch_sweep.IDLE, ()),
        "batches of claims": (BATCHES, (one,)),
        "ended lines": (batch_jobs.LINES, (ids[0], ids[-1], 2000)),
        "settled": (batch_jobs.SETTLED, (ids[0], ids[-1])),
        "submit": (submit.SUBMIT, submitted()),
        "submit twins": (submit.SUBMIT_TWINS, submitted()),
        "resolve": (
            follow.RESOLVE,
            *(
                (
                    *(many, [False] * 256, epochs, [b""] * 256, ["tiny"] * 256),
                    *([epochs] * 8),
                    *("engine", "worker", RUN, epochs),
                ),
            ),
        ),
        "wake": (follow.WAKE, (many, True, 2.0)),
        "leaderless": (follow.LEADERLESS, (500,)),
        "forlorn": (follow.FORLORN, ()),
        "kept answer": (cache.FIND, (ids[5], 1, ids[0], 600.0)),
        "stored": (submit.STORED, (many,)),
        "reattach": (delivery.REATTACH, (ids[5], 1, ids[0])),
        "take": (delivery.TAKE, (ids[5], ids[5], ids[6], RUN)),
        "attach": (load("attach"), (ids[5], RUN)),
        "delivered": (delivery.DELIVERED, (many,)),
        "disconnected": (delivery.DISCONNECTED, (many, many, 130.0, [RUN] * 256)),
        "results": (results.BY_IDS, (many,)),
        "followers": (follow.FOLLOWERS, (many,)),
        "progress": (follow.PROGRESS, (many,)),
    }


def submitted() -> tuple[Any, ...]:
    from tests.integration.db_fixtures import submission

    return submit.columns([submission() for _ in range(64)])
