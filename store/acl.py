"""The users of the online store, as a file for the setting `aclfile` of Valkey or Redis.

    python -m store.acl WRITER_PASSWORD_FILE READER_PASSWORD_FILE > users.acl

Batch, speed and orchestration connect as the writer, which may load the scripts of `store.scripts` and run them by their digests. Serving connects
as the reader, which can neither write nor run scripts. The default user is off. Both users may ask a cluster for its slots and for the keys of
commands, because a cluster's client needs them. The file contains hashes of the passwords.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

#: The rules apply from left to right, and INFO is among the dangerous commands.
WRITER = "+@read +@write +@connection -@dangerous -@scripting +info +evalsha +script|load +cluster|slots +cluster|shards +cluster|nodes +command"
READER = "+@connection +hgetall +hmget +hget +exists +cluster|slots +cluster|shards +cluster|nodes +command +readonly"


def acl(writer_password: str, reader_password: str) -> str:
    """Returns the text of the file."""

    def user(name: str, password: str, rules: str) -> str:
        return f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} resetkeys ~* resetchannels -@all {rules}"

    return "\n".join(["user default off", user("writer", writer_password, WRITER), user("reader", reader_password, READER), ""])


if __name__ == "__main__":
    sys.stdout.write(acl(*(Path(path).read_text().strip() for path in sys.argv[1:3])))
