"""Chooses the media type of an answer by the weights in the request's `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from functools import lru_cache

JSON = b"application/json"
ARROW = b"application/vnd.apache.arrow.stream"


@lru_cache(256)  # callers repeat the same headers
def preferred(accept: tuple[bytes, ...], offered: tuple[bytes, ...]) -> bytes:
    """Returns the offered media type with the largest weight. Ties are broken by the more specific media range, then by the order of the offer.

    If the request accepts none of the offered types, the first is returned, because an answer tells the caller more than a refusal.

    Args:
        accept: The values of the request's `accept` headers.
        offered: The media types, the default first.
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
    """Parses a media range and its weight. The weight is 1 if the text has none, and 0 if it is not a number."""
    name, *parameters = (part.strip() for part in text.split(b";"))
    quality = next((part[2:] for part in parameters if part.startswith(b"q=")), b"1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0
