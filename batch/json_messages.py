"""Reads a file of JSON as messages like those of Kafka: each line of JSON lines, each object of an array or of a pretty print.

Reads bytes; returns the unchanged bytes of each document, so no digit of a number is lost. A line that is not JSON is a message, too, which
the contract refuses. A file with an incomplete array is refused as a whole.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from batch.file_contents import not_utf8, open_bytes, other_content
from infra.errors import InputError

_LINE_BYTES = 64 * 2**20
_CHUNK_CHARACTERS = 2**20
_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder(strict=False)
#: The separators between values, outside and within an array.
_BETWEEN = (re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*"))

#: A JSON object as the bytes of its values.
Document = Mapping[str, msgspec.Raw]
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def document_of(message: bytes) -> Document | None:
    """Returns the JSON object of a message; None if the message is no JSON object. The rules are those of `features.judgement`."""
    try:
        message.decode()
        return _decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def messages_of_file(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields for each message of a file the number of the line in which the message begins, and the message.

    Raises:
        InputError: A file other than JSON lines is incomplete, is not JSON, or is not text in UTF-8; or the file is compressed or in UTF-16.
    """
    if error := other_content(path):
        raise error
    return _documents(path) if _is_one_text(path) else _lines(path)


def _is_one_text(path: Path) -> bool:
    """Returns whether the file is read as a single text of JSON (an array, or documents of several lines) rather than line by line."""
    with open_bytes(path) as handle:
        lines = (line.removeprefix(_BOM).strip() for line in iter(lambda: handle.readline(_LINE_BYTES), b""))
        first, second = ([line for line, _ in zip(filter(None, lines), range(2), strict=False)] + [b"", b""])[:2]
    if not {suffix.lower() for suffix in path.suffixes} & {".jsonl", ".ndjson"} and (
        first[:1] == b"[" or (not second and _has_several_objects(first))
    ):
        return True
    # In a file of JSON lines, an array on a line of its own and a broken line are messages.
    return first == b"[" or (first[:1] in (b"[", b"{") and first[-1] in b"[{,:" and document_of(second) is None)


def _has_several_objects(line: bytes) -> bool:
    """Returns whether a line has several objects in sequence, as in the files of Kinesis Data Firehose, which have no line ends."""
    text = line.decode(errors="replace")
    end = _end_of_value(text, 0) if text[:1] == "{" else None
    return end is not None and text[end:].lstrip()[:1] == "{"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open_bytes(path) as handle:
        for at, line in enumerate(handle, start=1):
            # Each of several files that were joined to this one may have begun with a byte order mark.
            message = line.removeprefix(_BOM).strip()
            parts = [part for part in message.split(b"\r") if part.strip()]
            if len(parts) > 1 and all(document_of(part) is not None for part in parts):
                for part in parts:  # lines that end with a carriage return alone
                    yield at, part.strip()
            elif message:
                yield at, message


def _documents(path: Path) -> Iterator[tuple[int, bytes]]:
    def more(characters: int = _CHUNK_CHARACTERS) -> str:
        try:
            return handle.read(characters)
        except UnicodeDecodeError:
            raise not_utf8(path) from None

    def refusal(what: str) -> InputError:
        return InputError(f"The file {path} {what} in line {at}.", "Repair the file; nothing was loaded.")

    text, position, counted, at, in_array = "", 0, 0, 1, False
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="") as handle:
        while True:
            position = _BETWEEN[in_array].match(text, position).end()  # type: ignore[union-attr]
            at += text.count("\n", counted, position)
            counted = position
            if position == len(text):
                text, position, counted = more(), 0, 0
                if text:
                    continue
                if in_array:
                    raise refusal("is an array of JSON that breaks off")
                return
            if text[position] == "[]"[in_array]:
                in_array = not in_array
                position += 1
                continue
            ended = False
            # A value that ends with the text that was read so far may continue in the rest of the file.
            while (end := _end_of_value(text, position)) is None or (end == len(text) and not ended):
                if ended or len(text) - position > _LINE_BYTES:
                    raise refusal("is not JSON")
                following = more(max(len(text) - position, _CHUNK_CHARACTERS))
                text, position, counted, ended = text[position:] + following, 0, 0, not following
            yield at, text[position:end].encode()
            position = end


def _end_of_value(text: str, position: int) -> int | None:
    """Returns the end of the JSON value at a position; None if the value is incomplete or invalid."""
    try:
        return _DECODER.raw_decode(text, position)[1]
    except (ValueError, RecursionError):
        return None
