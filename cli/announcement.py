"""Telling the running processes of a change that a command has made."""

from carpool.doorbell import Doorbell
from carpool.notices import CHANGED_CHANNEL
from carpool.settings import Settings


async def announced(settings: Settings) -> bool:
    """Have all processes read anew what they remember; False where Redis is away."""
    if settings.redis_url is None:
        return False
    doorbell = Doorbell(
        settings.redis_url.get_secret_value(), timeout_seconds=settings.redis_timeout_seconds
    )
    try:
        await doorbell.publish({CHANGED_CHANNEL: ()})
        return doorbell.healthy
    finally:
        await doorbell.close()
