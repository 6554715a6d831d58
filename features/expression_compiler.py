"""The compiler of derived features: checks a parsed SQL expression and the kinds of its values, and writes the steps of a program.

Reads the tree of sqlglot and the kinds of the names. Returns the steps for `features.expression_program` and the canonical spelling of each part of
the expression. BETWEEN, NULLIF, IF and a CASE with an operand become comparisons and a plain CASE.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, NoReturn

from sqlglot import exp

from features import expression_kernels as kernels
from features.errors import DeclarationError
from features.expression_kernels import Operation
from features.expression_program import CONDITION, NULL, NUMBER, TEXT, TIME, Call, Constant, Reading, Step, ValueKind

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class _Signature(NamedTuple):
    """An operation with fixed kinds of its arguments. `rest` is the kind of further arguments; None if no further arguments are allowed."""

    symbol: str
    parameters: tuple[str, ...]
    result: str
    operation: Operation
    rest: str | None = None


class _Choice(NamedTuple):
    """An operation whose arguments have one kind. The result has that kind, too, or is a condition if `is_condition`."""

    symbol: str
    operation: Operation
    is_condition: bool = False


#: Class of sqlglot, or name of a function for which sqlglot has no class → the operation.
_SIGNATURES: dict[type[exp.Expr] | str, _Signature] = {
    exp.Add: _Signature("+", (NUMBER, NUMBER), NUMBER, kernels.ADD),
    exp.Sub: _Signature("-", (NUMBER, NUMBER), NUMBER, kernels.SUBTRACT),
    exp.Mul: _Signature("*", (NUMBER, NUMBER), NUMBER, kernels.MULTIPLY),
    exp.Div: _Signature("/", (NUMBER, NUMBER), NUMBER, kernels.DIVIDE),
    exp.Mod: _Signature("%", (NUMBER, NUMBER), NUMBER, kernels.REMAINDER),
    exp.Neg: _Signature("-", (NUMBER,), NUMBER, kernels.NEGATE),
    exp.And: _Signature("AND", (CONDITION, CONDITION), CONDITION, kernels.AND),
    exp.Or: _Signature("OR", (CONDITION, CONDITION), CONDITION, kernels.OR),
    exp.Not: _Signature("NOT", (CONDITION,), CONDITION, kernels.NOT),
    exp.Abs: _Signature("abs", (NUMBER,), NUMBER, kernels.ABS),
    exp.Floor: _Signature("floor", (NUMBER,), NUMBER, kernels.FLOOR),
    exp.Ceil: _Signature("ceil", (NUMBER,), NUMBER, kernels.CEIL),
    exp.Sign: _Signature("sign", (NUMBER,), NUMBER, kernels.SIGN),
    exp.Sqrt: _Signature("sqrt", (NUMBER,), NUMBER, kernels.SQRT),
    exp.Ln: _Signature("ln", (NUMBER,), NUMBER, kernels.LN),
    "log1p": _Signature("log1p", (NUMBER,), NUMBER, kernels.LOG1P),
    exp.Exp: _Signature("exp", (NUMBER,), NUMBER, kernels.EXP),
    exp.Pow: _Signature("power", (NUMBER, NUMBER), NUMBER, kernels.POWER),
    exp.Lower: _Signature("lower", (TEXT,), TEXT, kernels.LOWER),
    exp.Upper: _Signature("upper", (TEXT,), TEXT, kernels.UPPER),
    exp.Length: _Signature("length", (TEXT,), NUMBER, kernels.LENGTH),
    exp.Concat: _Signature("concat", (TEXT,), TEXT, kernels.CONCAT, rest=TEXT),
    exp.DPipe: _Signature("concat", (TEXT, TEXT), TEXT, kernels.CONCAT),
    "hour_of_day": _Signature("hour_of_day", (TIME,), NUMBER, kernels.HOUR_OF_DAY),
    exp.DayOfWeek: _Signature("day_of_week", (TIME,), NUMBER, kernels.DAY_OF_WEEK),
    "seconds_between": _Signature("seconds_between", (TIME, TIME), NUMBER, kernels.SECONDS_BETWEEN),
}
_CHOICES: dict[type[exp.Expr], _Choice] = {
    exp.EQ: _Choice("=", kernels.EQUAL, is_condition=True),
    exp.NEQ: _Choice("<>", kernels.NOT_EQUAL, is_condition=True),
    exp.LT: _Choice("<", kernels.LESS, is_condition=True),
    exp.LTE: _Choice("<=", kernels.LESS_OR_EQUAL, is_condition=True),
    exp.GT: _Choice(">", kernels.GREATER, is_condition=True),
    exp.GTE: _Choice(">=", kernels.GREATER_OR_EQUAL, is_condition=True),
    exp.Coalesce: _Choice("coalesce", kernels.COALESCE),
    exp.Least: _Choice("least", kernels.LEAST),
    exp.Greatest: _Choice("greatest", kernels.GREATEST),
}
_SYMBOLS = [signature.symbol for signature in _SIGNATURES.values()] + [choice.symbol for choice in _CHOICES.values()]
#: The names of all functions.
FUNCTIONS = sorted({"if", "nullif", "round", "bucket", "hash_bucket", *filter(_NAME.fullmatch, _SYMBOLS)})


class Node(NamedTuple):
    """A part of an expression.

    Attributes:
        place: The index of the step that computes the part.
        kind: The kind of its value. A node of the kind NULL is always null.
        spelling: Its canonical spelling.
    """

    place: int
    kind: str
    spelling: str


class Compiler:
    """Writes the steps of an expression. Parts with the same kind and spelling share a step.

    Args:
        name: The name of the derived feature, for errors.
        kinds: Name that the expression may use → the kind of its values.

    Attributes:
        steps: The steps of all nodes so far.
    """

    def __init__(self, name: str, kinds: Mapping[str, ValueKind]) -> None:
        self.steps: list[Step] = []
        self._name = name
        self._kinds = kinds
        self._places: dict[tuple[str, str], int] = {}

    def node(self, tree: exp.Expr) -> Node:
        """Compiles a part of the parsed expression, and returns its node.

        Raises:
            DeclarationError: The part is not allowed, or a value in it has the wrong kind.
        """
        match tree:
            case exp.Paren():
                return self.node(tree.this)
            case exp.Null():
                return self._constant(None, NULL)
            case exp.Boolean():
                return self._constant(bool(tree.this), CONDITION)
            case exp.Literal(is_string=True):
                return self._constant(tree.name, TEXT)
            case exp.Column():
                return self._reading(tree)
            case exp.Is(expression=exp.Null()):
                operand = self.node(tree.this)
                return self._call(kernels.IS_NULL, [operand], CONDITION, f"({operand.spelling} IS NULL)")
            case exp.In(expressions=[_, *_]):
                value, *candidates = self._alike(tree, [tree.this, *tree.expressions])
                listed = ", ".join(candidate.spelling for candidate in candidates)
                return self._call(kernels.IN, [value, *candidates], CONDITION, f"({value.spelling} IN ({listed}))")
            case exp.Between() if not tree.args.get("symmetric"):
                low = exp.GTE(this=tree.this, expression=tree.args["low"])
                high = exp.LTE(this=tree.this, expression=tree.args["high"])
                return self.node(exp.And(this=low, expression=high))
            case exp.Nullif():
                is_equal = exp.EQ(this=tree.this, expression=tree.expression)
                return self._case(tree, [(is_equal, exp.Null())], tree.this)
            case exp.If():
                return self._case(tree, [(tree.this, tree.args["true"])], tree.args.get("false"))
            case exp.Case():
                branches = [(branch.this, branch.args["true"]) for branch in tree.args["ifs"]]
                if tree.this:
                    branches = [(exp.EQ(this=tree.this, expression=value), result) for value, result in branches]
                return self._case(tree, branches, tree.args.get("default"))
            case exp.Round():
                return self._round(tree)
        if (number := _literal_number(tree)) is not None:
            if not math.isfinite(number):
                self._refuse(f"has a number that is too large: {_sql(tree)}", "Use a number below 1.8e308.")
            return self._constant(number, NUMBER)
        name = tree.name.lower() if isinstance(tree, exp.Anonymous) else type(tree)
        if name == "bucket":
            return self._bucket(tree)
        if name == "hash_bucket":
            return self._hash_bucket(tree)
        if signature := _SIGNATURES.get(name):
            return self._fixed(tree, signature)
        if isinstance(name, type) and (choice := _CHOICES.get(name)):
            arguments = self._alike(tree, _arguments(tree))
            if arguments[0].kind == NULL and not choice.is_condition:
                return arguments[0]
            kind = CONDITION if choice.is_condition else arguments[0].kind
            return self._call(choice.operation, arguments, kind, _spelling(choice.symbol, arguments))
        return self._refuse(
            f"uses {_sql(tree)}, which is not allowed in a derived feature",
            f"Use names, literals, operators, CASE, and: {', '.join(FUNCTIONS)}.",
        )

    def _reading(self, tree: exp.Column) -> Node:
        kind = None if tree.table else self._kinds.get(tree.name)
        if kind is None:
            self._refuse(f"names an unknown value {tree.sql()!r}", f"Known are: {', '.join(sorted(self._kinds)) or 'no names'}.")
        escaped = tree.name.replace("`", "``")
        return Node(self._place(Reading(tree.name, kind), kind, f"`{escaped}`"), kind, f"`{escaped}`")

    def _fixed(self, tree: exp.Expr, signature: _Signature) -> Node:
        trees = _arguments(tree)
        further = len(trees) - len(signature.parameters)
        if further < 0 or (further and not signature.rest):
            self._refuse_count(signature.symbol, len(signature.parameters), len(trees))
        parameters = [*signature.parameters, *([signature.rest] * further if signature.rest else [])]
        arguments = [self._of_kind(self.node(part), kind, tree) for part, kind in zip(trees, parameters, strict=True)]
        return self._call(signature.operation, arguments, signature.result, _spelling(signature.symbol, arguments))

    def _case(self, tree: exp.Expr, branches: list[tuple[exp.Expr, exp.Expr]], default: exp.Expr | None) -> Node:
        conditions = [self._of_kind(self.node(condition), CONDITION, tree) for condition, _ in branches]
        *results, rest = self._alike(tree, [*(result for _, result in branches), default or exp.Null()])
        if rest.kind == NULL:
            return rest
        arguments = [node for branch in zip(conditions, results, strict=True) for node in branch]
        texts = "".join(
            f" WHEN {condition.spelling} THEN {result.spelling}" for condition, result in zip(conditions, results, strict=True)
        )
        return self._call(kernels.CASE, [*arguments, rest], rest.kind, f"CASE{texts} ELSE {rest.spelling} END")

    def _round(self, tree: exp.Expr) -> Node:
        number, *rest = _arguments(tree)
        digits = _literal_number(rest[0]) if rest else 0.0
        if len(rest) > 1 or digits is None or not digits.is_integer() or abs(digits) > 15:
            self._refuse(f"rounds to digits that cannot be used: {_sql(tree)}", "Use an integer from -15 to 15.")
        argument = self._of_kind(self.node(number), NUMBER, tree)
        return self._call(kernels.round_to(int(digits)), [argument], NUMBER, f"round({argument.spelling}, {int(digits)})")

    def _bucket(self, tree: exp.Expr) -> Node:
        number, *rest = _arguments(tree) or [exp.Null()]
        boundaries = [boundary for part in rest if (boundary := _literal_number(part)) is not None and math.isfinite(boundary)]
        if not rest or len(boundaries) < len(rest) or any(high <= low for low, high in pairwise(boundaries)):
            self._refuse(
                f"has boundaries that cannot be used: {_sql(tree)}", "Write literal numbers, each larger than the one before."
            )
        argument = self._of_kind(self.node(number), NUMBER, tree)
        listed = ", ".join(repr(boundary) for boundary in boundaries)
        return self._call(kernels.bucket(boundaries), [argument], NUMBER, f"bucket({argument.spelling}, {listed})")

    def _hash_bucket(self, tree: exp.Expr) -> Node:
        trees = _arguments(tree)
        if len(trees) != 2:
            self._refuse_count("hash_bucket", 2, len(trees))
        buckets = _literal_number(trees[1])
        if buckets is None or not buckets.is_integer() or not 1 <= buckets < 2**31:
            self._refuse(
                f"has a number of buckets that cannot be used: {_sql(tree)}", "Write a literal integer from 1 to 2147483647."
            )
        argument = self.node(trees[0])
        if argument.kind != TEXT:
            argument = self._of_kind(argument, NUMBER, tree)
        spelling = f"hash_bucket({argument.spelling}, {int(buckets)})"
        return self._call(kernels.hash_bucket(int(buckets)), [argument], NUMBER, spelling)

    def _alike(self, tree: exp.Expr, parts: list[exp.Expr]) -> list[Node]:
        """Compiles parts that must have one kind. A NULL takes the kind of the other parts."""
        nodes = [self.node(part) for part in parts]
        kinds = list(dict.fromkeys(node.kind for node in nodes if node.kind != NULL))
        if len(kinds) > 1:
            self._refuse(f"mixes {phrase(kinds[0])} and {phrase(kinds[1])}: {_sql(tree)}", "Use values of one kind.")
        return [self._of_kind(node, kinds[0], tree) for node in nodes] if kinds else nodes

    def _of_kind(self, node: Node, kind: str, tree: exp.Expr) -> Node:
        if node.kind == NULL:
            return self._constant(None, kind)
        if node.kind != kind:
            cure = {
                (NUMBER, CONDITION): "Compare the number, such as x <> 0.",
                (CONDITION, NUMBER): "Make a number of the condition: if(condition, 1, 0).",
                (TIME, NUMBER): "Use seconds_between, hour_of_day or day_of_week.",
            }.get((node.kind, kind), f"Use {phrase(kind)}.")
            self._refuse(f"uses {phrase(node.kind)} where {phrase(kind)} is needed: {node.spelling} in {_sql(tree)}", cure)
        return node

    def _constant(self, value: float | str | bool | None, kind: str) -> Node:
        if isinstance(value, str):
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            spelling = f"'{escaped}'"
        else:
            spelling = "NULL" if value is None else repr(value).upper() if isinstance(value, bool) else repr(value)
        return Node(self._place(Constant(value, kind), kind, spelling), kind, spelling)

    def _call(self, operation: Operation, arguments: list[Node], kind: str, spelling: str) -> Node:
        return Node(self._place(Call(operation, tuple(node.place for node in arguments)), kind, spelling), kind, spelling)

    def _place(self, step: Step, kind: str, spelling: str) -> int:
        if (kind, spelling) not in self._places:
            self._places[kind, spelling] = len(self.steps)
            self.steps.append(step)
        return self._places[kind, spelling]

    def _refuse_count(self, symbol: str, needed: int, present: int) -> NoReturn:
        self._refuse(f"calls {symbol} with {present} arguments", f"The number of arguments of {symbol} is {needed}.")

    def _refuse(self, cause: str, cure: str) -> NoReturn:
        raise DeclarationError(f"The expression of {self._name} {cause}.", cure)


def _arguments(tree: exp.Expr) -> list[exp.Expr]:
    return list(tree.iter_expressions())


def _literal_number(tree: exp.Expr) -> float | None:
    """Returns the number of a literal, with its sign; None if the tree is not a literal number."""
    match tree:
        case exp.Paren():
            return _literal_number(tree.this)
        case exp.Neg():
            number = _literal_number(tree.this)
            return None if number is None else -number
        case exp.Literal(is_string=False):
            return float(tree.name)
    return None


def _spelling(symbol: str, arguments: list[Node]) -> str:
    texts = [argument.spelling for argument in arguments]
    if _NAME.fullmatch(symbol):
        return f"{symbol}({', '.join(texts)})"
    return f"({symbol} {texts[0]})" if len(texts) == 1 else f"({f' {symbol} '.join(texts)})"


def phrase(kind: str) -> str:
    """Returns a kind as a phrase for a sentence."""
    return "always null" if kind == NULL else f"a {kind}"


def _sql(tree: exp.Expr) -> str:
    return tree.sql(dialect="spark", comments=False)
