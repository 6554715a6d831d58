"""The media type of an answer, as the request's `Accept` header weighs what is offered (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from functools import lru_cache

JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"


@lru_cache(256)  # callers send the same headers again and again
def preferred(accept: tuple[bytes, ...], offered: tuple[bytes, ...]) -> bytes:
    """The offered type that the headers weigh most; of equal weights the one that they name more exactly, then the first that is offered.

    A request that accepts none of them gets the first: a caller without a use for it is told more by an answer than by a refusal.

    Args:
        accept: The values of the request's `accept` headers.
        offered: The media types, the usual one first.
    """
    ranges = [_range(text) for value in accept for text in value.lower().split(b",")]

    def weight(media_type: bytes) -> tuple[float, int]:
        patterns = (media_type, media_type.split(b"/")[0] + b"/*", b"*/*")
        for place, pattern in enumerate(patterns):
            weights = [quality for name, quality in ranges if name == pattern]
            if weights:
                return max(weights), -place
        return 0.0, -len(patterns)

    return max(offered, key=weight)


def _range(text: bytes) -> tuple[bytes, float]:
    """A media range and its weight; a weight that is no number is 0."""
    name, *parameters = (part.strip() for part in text.split(b";"))
    quality = next((part[2:] for part in parameters if part.startswith(b"q=")), b"1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0
