"""Java regular expressions on the text of a message: whether it certainly is a JSON object, and which token is the value of a key.

A token is the text of a value in the message. It keeps what a parser would lose: the digits of a number, and which of two equal keys comes last. Each
loop is possessive, so no expression backtracks: a long text needs neither a deep stack nor more than linear time.
"""

from __future__ import annotations

_SPACE = r"[ \t\n\r]*+"
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
#: A key without escapes, so that equal keys are equal texts.
_KEY = r'"[^"\\\x00-\x1f]*+"'
_NUMBER = r"-?+(?:0|[1-9][0-9]{0,99}+)(?:\.[0-9]{1,99}+)?+(?:[eE][+-]?+[0-9]{1,9}+)?+(?![0-9])"
_SCALAR = rf"(?:{_STRING}|{_NUMBER}|true|false|null)"
#: How deeply the values of a message may be nested.
_DEPTH = 3


def _object(key: str, value: str) -> str:
    return rf'\{{{_SPACE}(?:{key}{_SPACE}:{_SPACE}{value}{_SPACE}(?:,{_SPACE}(?=")|(?=\}})))*+\}}'


def _value(depth: int) -> str:
    if not depth:
        return _SCALAR
    inner = _value(depth - 1)
    array = rf"\[{_SPACE}(?:{inner}{_SPACE}(?:,{_SPACE}(?!\])|(?=\])))*+\]"
    return rf"(?:{_SCALAR}|{_object(_STRING, inner)}|{array})"


#: A text that certainly is one JSON object.
JSON_OBJECT = rf"\A{_SPACE}{_object(_KEY, _value(_DEPTH))}{_SPACE}\z"

# The following expressions are applied only to a text that certainly is an object. There, a token ends before the first character that cannot belong
# to it.
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _nested(depth: int) -> str:
    inner = f"|{_nested(depth - 1)}" if depth > 1 else ""
    return rf'[\[{{](?:[^"\[\]{{}}]++|{_QUOTED}{inner})*+[\]}}]'


_TOKEN = rf'(?:{_QUOTED}|[^"\[\]{{}},: \t\n\r]++|{_nested(_DEPTH)})'
_PAIR = rf"{_QUOTED}{_SPACE}:{_SPACE}{_TOKEN}{_SPACE}(?:,{_SPACE})?+"


def _key(name: str) -> str:
    return rf'"\Q{name}\E"{_SPACE}:{_SPACE}'


def last_token(name: str) -> str:
    """Returns the expression whose first group is the token of the last key `name` in an object."""
    key = _key(name)
    return rf"\A{_SPACE}\{{{_SPACE}(?:(?:(?!{key}){_PAIR})*+{key}({_TOKEN}){_SPACE}(?:,{_SPACE})?+)++"


def only_token(name: str) -> str:
    """Returns the expression whose first group is the token of the only key `name` in an object.

    It does not match if the object has two such keys, or if a key has escapes.
    """
    key, other = _key(name), rf"(?!{_key(name)}){_KEY}{_SPACE}:{_SPACE}{_TOKEN}{_SPACE}(?:,{_SPACE})?+"
    return rf"\A\{{{_SPACE}(?:{other})*+{key}({_TOKEN}){_SPACE}(?:,{_SPACE})?+(?:{other})*+\}}\z"


def without_key(name: str) -> str:
    """Returns the expression that matches an object without a key `name` and without escapes in its keys."""
    other = rf"(?!{_key(name)}){_KEY}{_SPACE}:{_SPACE}{_TOKEN}{_SPACE}(?:,{_SPACE})?+"
    return rf"\A\{{{_SPACE}(?:{other})*+\}}\z"
