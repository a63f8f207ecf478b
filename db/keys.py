"""Teams and their keys; of a key only its hash is stored."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from carpool.errors import InvalidRequest
from carpool.ids import new_id
from db.database import Database, Fetches

# Who made a map of the routes before there was the team did not know it, and must make another.
TEAM_IS_ROUTED = """
update routing set version = version + 1
where exists (select from legs where cast(:team as text) = any(teams))
"""
TEAMS = """
select t.name, t.created_at, count(k.id) filter (where k.revoked_at is null) as keys
from teams t left join keys k on k.team_id = t.id group by t.id order by t.name
"""
PREFIX = "sk-carpool-"
_SECRET_BYTES = 32
_HINT_LENGTH = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """A key at the one moment at which its secret is known."""

    id: UUID
    secret: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyInfo:
    """A key as it is listed; ``hint`` is the end of its secret."""

    id: UUID
    team: str
    name: str
    owner: str | None
    admin: bool
    sees_bodies: bool
    hint: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TeamInfo:
    """A team, and how many keys it has that are not revoked."""

    name: str
    keys: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Whose request it is."""

    key_id: UUID
    team_id: int
    owner: str | None
    admin: bool
    sees_bodies: bool
    """Whether the admin API shows it prompts and answers."""


def hash_of(secret: str) -> bytes:
    """The stored form: SHA-256, enough for a secret of 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


async def create_key(
    database: Database,
    *,
    team: str,
    name: str,
    owner: str | None = None,
    admin: bool = False,
    sees_bodies: bool = False,
) -> NewKey:
    """Make a key, and its team where that is new.

    Raises InvalidRequest for an empty name, and where a team's own key shall see bodies: it sees
    its team's through the API that its clients use.
    """
    if not team.strip() or not name.strip():
        raise InvalidRequest("A key needs a team and a name.", param="team")
    if sees_bodies and not admin:
        raise InvalidRequest("Only an admin's key sees the bodies of all teams.", param="bodies")
    key = NewKey(id=new_id(), secret=PREFIX + secrets.token_urlsafe(_SECRET_BYTES))
    async with database.begin() as connection:
        made = await connection.execute(
            text("insert into teams (name) values (:team) on conflict (name) do nothing"),
            {"team": team},
        )
        if made.rowcount:
            await connection.execute(text(TEAM_IS_ROUTED), {"team": team})
        await connection.execute(
            text(
                "insert into keys (id, team_id, hash, hint, name, owner, admin, sees_bodies) "
                "select :id, id, :hash, :hint, :name, :owner, :admin, :sees_bodies from teams "
                "where name = :team"
            ),
            {
                "id": key.id,
                "hash": hash_of(key.secret),
                "hint": key.secret[-_HINT_LENGTH:],
                "name": name,
                "owner": owner,
                "admin": admin,
                "sees_bodies": sees_bodies,
                "team": team,
            },
        )
    return key


async def find_key(database: Database, secret: str) -> Identity | None:
    """Who a secret belongs to; None where it is unknown or revoked."""
    async with database.connect() as connection:
        row = (
            await connection.execute(
                text(
                    "select id, team_id, owner, admin, sees_bodies from keys "
                    "where hash = :hash and revoked_at is null"
                ),
                {"hash": hash_of(secret)},
            )
        ).one_or_none()
    if row is None:
        return None
    return Identity(
        key_id=row.id,
        team_id=row.team_id,
        owner=row.owner,
        admin=row.admin,
        sees_bodies=row.sees_bodies,
    )


async def list_keys(database: Database, *, team: str | None = None) -> list[KeyInfo]:
    """All keys, or a team's, oldest first."""
    async with database.connect() as connection:
        rows = await connection.execute(
            text(
                "select k.id, t.name as team, k.name, k.owner, k.admin, k.sees_bodies, k.hint, "
                "k.created_at, k.revoked_at from keys k join teams t on t.id = k.team_id "
                "where cast(:team as text) is null or t.name = :team order by k.created_at"
            ),
            {"team": team},
        )
        return [KeyInfo(**row) for row in rows.mappings()]


async def list_teams(database: Fetches) -> list[TeamInfo]:
    """All teams, by their names."""
    return [TeamInfo(**row) for row in await database.fetch(TEAMS)]


async def revoke_key(database: Database, identifier: str) -> bool:
    """Revoke a key by its id or its secret; False where no such key is valid."""
    try:
        condition, value = "id = :value", UUID(identifier)
    except ValueError:
        condition, value = "hash = :value", hash_of(identifier)  # type: ignore[assignment]
    async with database.begin() as connection:
        result = await connection.execute(
            text(f"update keys set revoked_at = now() where {condition} and revoked_at is null"),  # noqa: S608 - one of two constants
            {"value": value},
        )
        return result.rowcount == 1
