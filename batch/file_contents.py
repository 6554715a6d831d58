"""Opens a file as bytes, which are decompressed if its name ends in .gz, and makes the errors for files that are not text in UTF-8."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO

from infra.errors import InputError

_UNPACK = "Unpack it, or compress it by gzip under a name that ends in .gz."
_RECODE = "Convert it, such as by `iconv -f UTF-16 -t UTF-8`."
#: The first bytes of a file that is no text in UTF-8 → what it is, and the cure.
_CONTENTS = {
    b"\x1f\x8b": ("compressed by gzip", "Give it a name that ends in .gz."),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", _UNPACK),
    b"\xfd7zXZ\0": ("compressed by xz", _UNPACK),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"PK\3\4": ("a ZIP archive or a spreadsheet", "Unpack it, or export the spreadsheet as CSV in UTF-8."),
    b"PAR1": ("Parquet", "Give it a name that ends in .parquet."),
    b"\xff\xfe": ("not text in UTF-8 but in UTF-16", _RECODE),
    b"\xfe\xff": ("not text in UTF-8 but in UTF-16", _RECODE),
}


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file as bytes. The bytes of a file whose name ends in .gz are decompressed."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def not_utf8(path: Path) -> InputError:
    """Returns the error for a file in another encoding. braid does not guess the encoding, because a wrong guess would load wrong letters."""
    return other_content(path) or InputError(
        f"The file {path} is not text in UTF-8.", "Convert it, such as by `iconv -f LATIN1 -t UTF-8`."
    )


def other_content(path: Path) -> InputError | None:
    """Returns the error for a file whose first bytes show that it is compressed, a spreadsheet, Parquet or UTF-16; None for any other file."""
    with open_bytes(path) as handle:
        head = handle.read(6)
    for magic, (content, cure) in _CONTENTS.items():
        if head.startswith(magic):
            return InputError(f"The file {path} is {content}.", cure)
    # Text in UTF-16 without a byte order mark that begins with an ASCII character.
    if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        name = "UTF-16BE" if head[0] == 0 else "UTF-16LE"
        return InputError(
            f"The file {path} is not text in UTF-8 but in UTF-16.", f"Convert it, such as by `iconv -f {name} -t UTF-8`."
        )
    return None
