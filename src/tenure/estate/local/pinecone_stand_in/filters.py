"""Metadata filters, as https://docs.pinecone.io/guides/search/filter-by-metadata describes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tenure.estate.local.pinecone_stand_in.refusals import Refused

MOST_VALUES: Final = 10_000
"""Of one `$in` or `$nin`."""


def matches(filter_: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata fulfils every condition. Raises `Refused` for a filter that is none."""
    return all(_condition(key, wanted, metadata) for key, wanted in filter_.items())


def _condition(key: str, wanted: Any, metadata: Mapping[str, Any]) -> bool:
    if key in ("$and", "$or"):
        if not isinstance(wanted, list) or not wanted or not all(isinstance(w, dict) for w in wanted):
            raise Refused(400, f"{key} takes a list of filters")
        found = [matches(one, metadata) for one in wanted]
        return all(found) if key == "$and" else any(found)
    if key.startswith("$"):
        raise Refused(400, f"{key} is not a valid operator at the top of a filter")
    tests = wanted if isinstance(wanted, dict) else {"$eq": wanted}
    if not tests:
        raise Refused(400, f"the condition of {key} is empty")
    return all(_test(operator, operand, metadata.get(key)) for operator, operand in tests.items())


def _test(operator: str, operand: Any, held: Any) -> bool:
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise Refused(400, "$exists takes a boolean")
        return (held is not None) is operand
    test = _OPERATORS.get(operator)
    if test is None:
        raise Refused(400, f"{operator} is not a valid operator")
    if operator in ("$in", "$nin") and (not isinstance(operand, list) or len(operand) > MOST_VALUES):
        raise Refused(400, f"{operator} takes a list of at most {MOST_VALUES} values")
    return test(held, operand)


def _equal(held: Any, operand: Any) -> bool:
    if isinstance(held, list):
        return operand in held
    return held == operand and isinstance(held, bool) is isinstance(operand, bool)


def _within(held: Any, operands: Sequence[Any]) -> bool:
    return any(_equal(held, operand) for operand in operands)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[Any, Any], bool]:
    def test(held: Any, operand: Any) -> bool:
        if not _number(operand):
            raise Refused(400, "an order can only be asked of numbers")
        return _number(held) and compare(held, operand)

    return test


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$eq": _equal,
    "$ne": lambda held, operand: not _equal(held, operand),
    "$in": _within,
    "$nin": lambda held, operands: not _within(held, operands),
    "$gt": _ordered(lambda held, operand: held > operand),
    "$gte": _ordered(lambda held, operand: held >= operand),
    "$lt": _ordered(lambda held, operand: held < operand),
    "$lte": _ordered(lambda held, operand: held <= operand),
}
