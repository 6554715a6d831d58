"""The reasons of the store's errors: one text per kind of error, for degraded answers and for the messages of errors.

ServiceError
└── StoreError          the online store does not answer, or refuses a command
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis import exceptions

from infra.errors import ServiceError

#: The errors that a client raises if the store is at fault. A cluster's client raises errors that are no RedisError.
CLIENT_ERRORS = (redis.RedisError, exceptions.RedisClusterException, OSError)

OUT_OF_REACH = "the online store cannot be reached"
TOO_SLOW = "the online store did not answer in time"
NOT_OURS = "the online store holds something else under the entity's key"
#: The reason of an error is that of the first matching entry. So subclasses come before their bases.
_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (exceptions.BusyLoadingError, "the online store is still loading its data"),
    ((exceptions.AuthenticationError, exceptions.AuthorizationError), "the online store refuses the user or the password"),
    (exceptions.NoPermissionError, "the online store's user has no permission for this command or key"),
    ((exceptions.ClusterDownError, exceptions.SlotNotCoveredError), "a part of the online store's cluster is down"),
    (exceptions.AskError, "the online store is a cluster, and REDIS_CLUSTER does not say so"),
    (exceptions.TryAgainError, "the online store's cluster is moving the key"),
    (exceptions.ReadOnlyError, "the online store's server is a replica and takes no writes"),
    (exceptions.WatchError, "another process writes the same entities of the online store all the time"),
    (exceptions.OutOfMemoryError, "the online store's memory is full"),
    (TimeoutError, TOO_SLOW),
    (exceptions.TimeoutError, TOO_SLOW),
    ((exceptions.ConnectionError, exceptions.RedisClusterException, exceptions.ClusterError, OSError), OUT_OF_REACH),
)
#: The reasons of error replies for which the client has no class, by the code of the reply.
_REPLIES = {
    "WRONGTYPE": NOT_OURS,
    "NOAUTH": "the online store asks for a password",
    "MISCONF": "the online store cannot write its file and takes no writes",
    "NOREPLICAS": "the online store has too few replicas and takes no writes",
}


class StoreError(ServiceError):
    """The online store does not answer, or refuses."""


def reason_of(error: BaseException) -> str:
    """Returns why the store gave no answer, as a part of a sentence without an address or a password."""
    for kinds, reason in _REASONS:
        if isinstance(error, kinds):
            return reason
    words = str(error).split()
    # In the error of a script, other words precede the code.
    word = next((part for part in words if part.strip("-:,") in _REPLIES), words[0] if words else type(error).__name__)
    return _REPLIES.get(word.strip("-:,"), f"the online store answers with the error {word}")


@contextmanager
def store_errors() -> Iterator[None]:
    """Converts each error of the client that the block raises.

    Raises:
        StoreError: The client raised one of `CLIENT_ERRORS`. The message contains the reason.
    """
    try:
        yield
    except CLIENT_ERRORS as error:
        reason = reason_of(error)
        raise StoreError(
            f"{reason[0].upper()}{reason[1:]} ({type(error).__name__}).", "Run `braid up`, or correct REDIS_URL."
        ) from None
