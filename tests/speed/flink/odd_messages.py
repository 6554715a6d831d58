"""Messages for the comparison of two engines: hand-picked tokens in every column, whole texts, and random ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

GOOD = {
    "event_id": '"e-1"',
    "user_id": "17",
    "session_id": '"s1"',
    "event_type": '"PURCHASE"',
    "amount": "12.50",
    "event_timestamp": '"2026-03-01T12:00:00.123Z"',
    "item_id": '"i1"',
    "properties": '{"channel": "web", "n": 3}',
}

TOKENS = [
    "null", "true", "false", '""', '" "', '"  7 "', "0", "-0", "7", "-7", "007", "+7", "7.", ".7", "7.0", "7.00", "7.5", "1e3", "1E3", "1.5e3", "1e-5",
    "1E400", "-1e400", "1e+2", "12.5e-1", "0.1", "0.30000000000000004", "1.0000005", "1.0000015", "-1.0000005", "-1.0000015", "1.00000050000001",
    "2.5000004999999", "2.50000049999999999", "2.500000500000000000", "2.5000004999999999999", "999999999999.9999995", "999999999999.9999994", "-999999999999.9999995",
    "1000000000000", "999999999999", "12345678901234567890", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "0" * 30 + "5", "1" + "0" * 36, "1" + "0" * 37, "1" + "0" * 50, "0." + "0" * 40 + "1", "123456789012345678901234567890.5", "NaN", "Infinity",
    '"NaN"', '"Infinity"', '"7"', '"-7"', '"+7"', '"007"', '"7.0"', '"7.000"', '"7.5"', '"7."', '".5"', '"-.5"', '"1e3"', '"1E-3"', '"1_000"', '"1,5"', '"7 8"',
    '"7\\n"', '"\\t7"', '"7\\u0000"', '"0x10"', '"7f"', '"7d"', '"7L"', '"\u0661\u0662"', '"12\u00a0"', '"much"', '"true"', '"null"', '"9223372036854775807"',
    '"9223372036854775808"', '"-9223372036854775808"', '"00000000000000000000000000012"', '"' + "9" * 45 + '"', '"--7"', '"+-7"', '"."', '"-"', '"e3"', '"1e"',
    '"a\\"b"', '"a\\\\b"', '"\\u00fc"', '"\u00fc b"', '"\U0001f986"', '"\\ud83e\\udd86"', '"\\ud83e"', '"\\udd86x"', '"\\\\ud83e"', '"a\\/b"', '"\\b\\f\\n\\r\\t"',
    '"a/b~c"', "'single'", "unquoted", '"\ufffd"', '"\\u0000"', '"\x7f"', '"a\tb"', '"' + "x" * 256 + '"', '"' + "x" * 257 + '"', '"' + "\U0001f986" * 256 + '"',
    '"' + "y" * 5_000 + '"', "[]", "[ ]", "[1]", '["a"]', "{}", "{ }", '{"a": 1}', '{"channel": "app"}', '{"channel": null}', '{"channel": 7.50}',
    '{"channel": 1e5}', '{"channel": true}', '{"channel": "a\\u0062"}', '{"channel": {"x": 1}}', '{"channel": [1, 2]}', '{"channel": "a", "channel": "b"}',
    '{"chan\\u006eel": "x"}', '{"other": [], "channel": "web"}', '{"channel": "web", "deep": {"a": {"b": [1, {"c": 2}]}}}', '{"a": "\\"channel\\": 1"}',
    '"{\\"channel\\": \\"web\\"}"', '"[]"', '"{}"', '"x=1"', '{"channel": }', '{"channel" "web"}', '{channel: "web"}', '{"channel": "web",}', "[1,]", "[,1]",
    '"2026-03-01T12:00:00Z"', '"2026-03-01T12:00:00"', '"2026-03-01 12:00:00Z"', '"2026-03-01t12:00:00z"', '"2026-03-01T12:00:00.1Z"',
    '"2026-03-01T12:00:00.123456Z"', '"2026-03-01T12:00:00.123456789Z"', '"2026-03-01T12:00:00.1234567890Z"', '"2026-03-01T12:00:00.Z"', '"2026-03-01T12:00:00,5Z"',
    '"2026-03-01T12:00:00+01:00"', '"2026-03-01T12:00:00-05:30"', '"2026-03-01T12:00:00+17:59"', '"2026-03-01T12:00:00+18:00"', '"2026-03-01T12:00:00+18:30"',
    '"2026-03-01T12:00:00+19:00"', '"2026-03-01T12:00:00+00:60"', '"2026-03-01T12:00:00-00:00"', '"2026-03-01T12:00:00+0100"', '"2026-03-01T12:00:00 Z"',
    '"2026-03-01T12:00Z"', '"2026-03-01T24:00:00Z"', '"2026-03-01T23:59:60Z"', '"2026-03-01T23:60:00Z"', '"2026-02-29T00:00:00Z"', '"2024-02-29T00:00:00Z"',
    '"2100-02-29T00:00:00Z"', '"2000-02-29T00:00:00Z"', '"2026-04-31T00:00:00Z"', '"2026-13-01T00:00:00Z"', '"2026-00-01T00:00:00Z"', '"2026-01-00T00:00:00Z"',
    '"2026-01-32T00:00:00Z"', '"1969-12-31T23:59:59.999Z"', '"1970-01-01T00:00:00Z"', '"1970-01-02T00:00:00Z"', '"1970-01-02T00:00:00+00:01"', '"0000-01-01T00:00:00Z"',
    '"1582-10-10T00:00:00Z"', '"1900-01-01T00:00:00Z"', '"2199-12-31T23:59:59.999999Z"', '"2200-01-01T00:00:00Z"', '"9999-12-31T23:59:59Z"', '"10000-01-01T00:00:00Z"',
    '"2026-3-1T12:00:00Z"', '" 2026-03-01T12:00:00Z"', '"2026-03-01T12:00:00Z "', '"2026-03-01T12:00:00Z\\n"', '"\u0662026-03-01T12:00:00Z"', "1772366400000", '"now"',
    '"2026-03-01T12:00:00+01:00[Europe/Berlin]"', '"2026-03-01T12:00:00.999999999Z"', '"2026-02-28T23:59:59.9996Z"',
]  # fmt: skip


def of(**tokens: str) -> bytes:
    """A good message with other tokens."""
    return ("{" + ", ".join(f'"{name}": {token}' for name, token in {**GOOD, **tokens}.items()) + "}").encode()


def whole_texts() -> Iterator[bytes | None]:
    """Messages that are odd as a whole."""
    good = of().decode()
    yield None
    for text in (
        "", " ", "\n", "null", "1", '"x"', "[]", "[1]", f"[{good}]", "{}", "{ }", "{", "}", f"{good} ", f" \n\t\r{good}\n", f"{good}x", f"{good} {good}", f"{good},", f"{good},1",
        f"x{good}", f"\ufeff{good}", f"\u00a0{good}", f"{good}\u0000", f"\u0000{good}", f"// c\n{good}", f"/* */{good}", f"{good}# c", good[:-1], good[1:],
        good[:-1] + ",}", "{," + good[1:], good.replace('"', "'"), good.replace(": ", " = "), good.replace('"user_id"', "user_id"), good.replace(",", ";"),
        good.replace("user_id", "User_Id"), good.replace('"user_id"', '"user\\u005fid"'), good[:-1] + ', "user_id": 99}', good[:-1] + ', "user_id": null}',
        good[:-1] + ', "user_id": "no"}', good[:-1] + ', "event_id": "second", "event_id": "third"}', '{"user_id": "no", ' + good[1:], '{"properties": 5, ' + good[1:],
        good[:-1] + ', "amount": {"a": 1, "a": 2}}', good[:-1] + ', "unknown": {"a": [1, {"b": null}]}}', good[:-1] + ', "unknown": [[[[[[1]]]]]]}',
        good[:-1] + ', "unknown": [[[[[[1}', good[:-1] + ', "unknown": 01}', good[:-1] + ', "unknown": tru}', good[:-1] + ', "unknown": NaN}',
        good[:-1] + ', "unknown": "\\x"}', good[:-1] + ', "unknown": "\\ud83e"}', good[:-1] + ', "unknown": "\\u12"}', good[:-1] + ', "unknown": "a\nb"}',
        good[:-1] + ', "": 1}', good[:-1] + ', "\\"user_id\\": 3": 4}', good[:-1] + ', "a": "\\", \\"user_id\\": 3"}', good[:-1] + ', "unknown": ' + "7" * 400 + "}",
        good[:-1] + ', "unknown": ' + "7" * 1_200 + "}", good[:-1] + ', "unknown": "' + "z" * 60_000 + '"}', good[:-1] + ', "unknown": ' + "[" * 1_100 + "]" * 1_100 + "}",
        good[:-1] + ', "unknown": ' + "[" * 300 + "]" * 300 + "}", good[:-1] + "".join(f', "k{n}": {n}' for n in range(3_000)) + "}", "}" + good, good + "}",
        '{"a": 1}, "b": 2', good + ', "end": 2', good[:-1] + ', "end": null}', '{"e": ' + good + "}", "\\" + good, good[:-1] + ', "u": -}', good[:-1] + ', "u": 1.e5}',
        good[:-1] + ', "u": 1e}', good[:-1] + ', "u": [1 2]}', good[:-1] + ', "u" : [1, 2 , 3 ] }', good[:-1] + ', "u": {"a" : {"b" : {"c" : 1 } } } }',
    ):  # fmt: skip
        yield text.encode()
    raw = of()
    yield raw.replace(b"web", b"w\xffb")
    yield b"\xff\xfe no JSON {"
    yield raw.replace(b"s1", b"\xed\xa0\xbe")
    yield raw.replace(b"s1", b"\xc0\xaf")
    yield raw.replace(b"s1", "\ufffd".encode())
    yield b"\x00\x00\x00\x00\x01" + raw
    yield raw.decode().encode("utf-16")
    yield raw.decode().encode("utf-16-le")


def odd_messages(seed: int, count: int) -> list[bytes | None]:
    """All of them, and as many random ones: several odd tokens at once, other orders and white space, cut and damaged texts."""
    rng = random.Random(seed)
    messages = [of(**{name: token}) for name in GOOD for token in TOKENS]
    messages += [*whole_texts()]
    for _ in range(count):
        tokens = {**GOOD, **{rng.choice(list(GOOD)): rng.choice(TOKENS) for _ in range(rng.randrange(3))}}
        pairs = [(name, token) for name, token in tokens.items() if rng.random() < 0.97]
        pairs += [(rng.choice(list(GOOD)), rng.choice(TOKENS)) for _ in range(int(rng.random() < 0.1))]
        rng.shuffle(pairs)
        space = rng.choice(("", " ", "\n\t"))
        text = "{" + f",{space}".join(f'"{name}":{space}{token}' for name, token in pairs) + "}"
        if rng.random() < 0.1:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(("", '"', "\\", "}", ",", "\u00fc", "1")) + text[at + rng.randrange(2) :]
        messages.append(text.encode())
    return messages


def typical_messages(seed: int, count: int) -> list[bytes]:
    """Messages as programs write them."""
    rng = random.Random(seed)
    return [
        json.dumps(
            {
                "event_id": f"e-{n}", "user_id": rng.choice((rng.randrange(10**6), str(rng.randrange(10**6)))), "session_id": f"s{rng.randrange(99)}",
                "event_type": rng.choice(("PURCHASE", "VIEW", "Müll")), "amount": rng.choice((None, rng.randrange(10**6) / 100, rng.random() * 1e6, "7.25")),
                "event_timestamp": f"2026-03-{rng.randrange(1, 29):02d}T{rng.randrange(24):02d}:00:{rng.randrange(60):02d}.{rng.randrange(1000):03d}+01:00",
                "item_id": rng.choice((None, "", f"i{rng.randrange(50)}")), "properties": rng.choice((None, {}, {"channel": rng.choice(("web", "app")), "n": 1})),
            },
            ensure_ascii=rng.random() < 0.5,
        ).encode()
        for n in range(count)
    ]  # fmt: skip
