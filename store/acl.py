"""Users of the online store: `python -m store.acl WRITER_PASSWORD_FILE READER_PASSWORD_FILE > users.acl`, for Valkey's or Redis' `aclfile`.

The writer is for batch, speed and orchestration, and runs the scripts of `store.scripts` (by their digests; it may load them); the reader, for
serving, can neither write nor run scripts. The default user is off. A cluster's clients ask for its slots and the commands' keys.
The file holds hashes, not passwords.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

WRITER = "+@read +@write +@connection +info -@dangerous -@scripting +evalsha +script|load +cluster|slots +cluster|shards +cluster|nodes +command"
READER = "+@connection +hgetall +hmget +hget +exists +cluster|slots +cluster|shards +cluster|nodes +command +readonly"


def acl(writer_password: str, reader_password: str) -> str:
    """The lines of the file."""

    def user(name: str, password: str, rules: str) -> str:
        return f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} resetkeys ~* resetchannels -@all {rules}"

    return "\n".join(["user default off", user("writer", writer_password, WRITER), user("reader", reader_password, READER), ""])


if __name__ == "__main__":
    sys.stdout.write(acl(*(Path(path).read_text().strip() for path in sys.argv[1:3])))
