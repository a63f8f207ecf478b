"""Sessions of the dashboard: an admin's key, held by a browser as a cookie that ends by itself."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from db.database import Fetches
from db.keys import Identity, hash_of

CREATE = """
with expired as (delete from sessions where expires_at <= now())
insert into sessions (hash, key_id, csrf, expires_at)
values ($1, $2, $3, now() + make_interval(secs => $4))
"""
FIND = """
select
    k.id, k.team_id, t.name as team, k.name, k.owner, k.admin, k.sees_bodies, s.csrf, s.expires_at
from sessions s join keys k on k.id = s.key_id join teams t on t.id = k.team_id
where s.hash = $1 and s.expires_at > now() and k.revoked_at is null and k.admin
"""
END = "delete from sessions where hash = $1"
# A key is named by its id, a session by its hash.
VALID = """
select id::text as name from keys where id = any($1::uuid[]) and revoked_at is null and admin
union all
select encode(s.hash, 'hex') from sessions s join keys k on k.id = s.key_id
where s.hash = any($2::bytea[]) and s.expires_at > now() and k.revoked_at is null and k.admin
"""
_SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSession:
    """A session at the one moment at which its cookie's value is known."""

    cookie: str
    csrf: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A session that holds; what a browser changes by it must carry ``csrf``."""

    identity: Identity
    team: str
    key_name: str
    csrf: str
    expires_at: datetime


async def create_session(database: Fetches, key: UUID, *, seconds: float) -> NewSession:
    """Begin a session of an admin's key, for so long; those that have ended are forgotten."""
    made = NewSession(
        cookie=secrets.token_urlsafe(_SECRET_BYTES), csrf=secrets.token_urlsafe(_SECRET_BYTES)
    )
    await database.fetch(CREATE, hash_of(made.cookie), key, made.csrf, seconds)
    return made


async def find_session(database: Fetches, cookie: str) -> Session | None:
    """The session of a cookie; None where it is unknown or over, or its key is revoked."""
    rows = await database.fetch(FIND, hash_of(cookie))
    if not rows:
        return None
    row = rows[0]
    return Session(
        identity=Identity(
            key_id=row["id"],
            team_id=row["team_id"],
            owner=row["owner"],
            admin=row["admin"],
            sees_bodies=row["sees_bodies"],
        ),
        team=row["team"],
        key_name=row["name"],
        csrf=row["csrf"],
        expires_at=row["expires_at"],
    )


async def end_session(database: Fetches, cookie: str) -> None:
    """End a session; a cookie of none ends nothing."""
    await database.fetch(END, hash_of(cookie))


async def still_valid(
    database: Fetches, keys: Sequence[UUID], cookies: Sequence[str]
) -> set[UUID | str]:
    """Those of the keys and cookies that an admin may still use."""
    hashes = {hash_of(cookie).hex(): cookie for cookie in cookies}
    rows = await database.fetch(VALID, keys, [bytes.fromhex(name) for name in hashes])
    named: dict[str, UUID | str] = {str(key): key for key in keys} | hashes
    return {named[row["name"]] for row in rows}
