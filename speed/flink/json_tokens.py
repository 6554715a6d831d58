"""Regular expressions of Java on the text of a message: whether it is a JSON object for certain, and the token of a key's value as it stands in the text.

A token keeps what a parser would lose: the digits of a number, and which of two equal keys comes last. No expression goes back in the text (each loop
is possessive), so a long text takes neither a deep stack nor more than linear time.
"""

from __future__ import annotations

_SPACE = r"[ \t\n\r]*+"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
#: A key without escapes, so that equal keys are equal texts.
_KEY = r'"[^"\\\x00-\x1f]*+"'
_NUMBER = r"-?+(?:0|[1-9][0-9]{0,99}+)(?:\.[0-9]{1,99}+)?+(?:[eE][+-]?+[0-9]{1,9}+)?+(?![0-9])"
_SCALAR = rf"(?:{_STRING}|{_NUMBER}|true|false|null)"
#: How deep values are that a message may have.
_DEPTH = 3


def _object(key: str, value: str) -> str:
    return rf'\{{{_SPACE}(?:{key}{_SPACE}:{_SPACE}{value}{_SPACE}(?:,{_SPACE}(?=")|(?=\}})))*+\}}'


def _value(depth: int) -> str:
    if not depth:
        return _SCALAR
    inner = _value(depth - 1)
    array = rf"\[{_SPACE}(?:{inner}{_SPACE}(?:,{_SPACE}(?!\])|(?=\])))*+\]"
    return rf"(?:{_SCALAR}|{_object(_STRING, inner)}|{array})"


#: A text that is one JSON object, for certain.
JSON_OBJECT = rf"\A{_SPACE}{_object(_KEY, _value(_DEPTH))}{_SPACE}\z"

# In what is an object for certain, a token ends where the next character is not of it.
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _nested(depth: int) -> str:
    inner = f"|{_nested(depth - 1)}" if depth > 1 else ""
    return rf'[\[{{](?:[^"\[\]{{}}]++|{_QUOTED}{inner})*+[\]}}]'


_TOKEN = rf'(?:{_QUOTED}|[^"\[\]{{}},: \t\n\r]++|{_nested(_DEPTH)})'
_PAIR = rf"{_QUOTED}{_SPACE}:{_SPACE}{_TOKEN}{_SPACE}(?:,{_SPACE})?+"


def _key(name: str) -> str:
    return rf'"\Q{name}\E"{_SPACE}:{_SPACE}'


def last_token(name: str) -> str:
    """The expression whose first group is the token of the last key of that name in an object."""
    key = _key(name)
    return rf"\A{_SPACE}\{{{_SPACE}(?:(?:(?!{key}){_PAIR})*+{key}({_TOKEN}){_SPACE}(?:,{_SPACE})?+)++"


def only_token(name: str) -> str:
    """The expression whose first group is the token of the only key of that name in an object without escapes in its keys; no match where there are two."""
    key, other = _key(name), rf"(?!{_key(name)}){_KEY}{_SPACE}:{_SPACE}{_TOKEN}{_SPACE}(?:,{_SPACE})?+"
    return rf"\A\{{{_SPACE}(?:{other})*+{key}({_TOKEN}){_SPACE}(?:,{_SPACE})?+(?:{other})*+\}}\z"


def without_key(name: str) -> str:
    """The expression that an object matches that has no key of that name, and no escapes in its keys."""
    other = rf"(?!{_key(name)}){_KEY}{_SPACE}:{_SPACE}{_TOKEN}{_SPACE}(?:,{_SPACE})?+"
    return rf"\A\{{{_SPACE}(?:{other})*+\}}\z"
