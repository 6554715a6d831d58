"""Decodes the content encoding of a request's body: the sent bytes → bytes of JSON, at most `MAX_BODY_BYTES`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from serving.contract import MAX_BODY_BYTES
from serving.errors import RefusalError

#: The value of zlib's `wbits` for a stream in gzip's format.
_GZIP = 31


def decoded(body: bytes, encodings: Sequence[bytes]) -> bytes:
    """Returns the body without its content encoding.

    Args:
        body: The sent bytes.
        encodings: The values of the request's `content-encoding` headers.

    Raises:
        RefusalError: The encoding is neither gzip nor identity, the body is not gzip, or the decoded body is too large.
    """
    names = [name for value in encodings for name in value.lower().replace(b" ", b"").split(b",") if name not in (b"", b"identity")]
    if not names:
        return body
    if names not in ([b"gzip"], [b"x-gzip"]):
        raise RefusalError(415, "The content-encoding is not supported.", "Send the body as it is, or with content-encoding: gzip.")
    plain = b""
    while body:  # a body may consist of several gzip streams
        stream = zlib.decompressobj(_GZIP)
        try:
            plain += stream.decompress(body, MAX_BODY_BYTES + 1 - len(plain))
        except zlib.error:
            raise _no_gzip() from None
        if len(plain) > MAX_BODY_BYTES:
            raise RefusalError(413, "The body is too large.", f"Send at most {MAX_BODY_BYTES} bytes, counted without compression.")
        if not stream.eof:
            raise _no_gzip()
        body = stream.unused_data
    return plain


def _no_gzip() -> RefusalError:
    return RefusalError(400, "The body is not gzip.", "Compress the whole body, or send it without content-encoding.")
