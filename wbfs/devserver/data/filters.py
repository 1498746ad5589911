"""The `filters` and `order` arguments of listings, translated to SQL.

The W&B protocol: `filters` is a JSON string in MongoDB's query language,
`order` a comma-separated list of fields, each with an optional `+` or `-`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wbfs.devserver.data.database import Value
from wbfs.devserver.errors import InvalidRequest

COMPARISONS = {
    "$eq": "IS",
    "$ne": "IS NOT",
    "$gt": ">",
    "$gte": ">=",
    "$lt": "<",
    "$lte": "<=",
    "$regex": "REGEXP",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field that can be filtered by.

    sql: the expression to compare. For a field with many values, the text of an
        EXISTS subquery around `{test}`, and `value` is what is compared in it.
    """

    sql: str
    value: str | None = None


Fields = Mapping[str, Field]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A WHERE condition and the values of its `?` marks."""

    sql: str
    parameters: tuple[Value, ...]


EVERYTHING = Condition(sql="1", parameters=())


def parse_filters(text: str | None, fields: Fields) -> Condition:
    """Translate a JSON filter.

    Raises InvalidRequest for bad JSON, and for fields and operators that it doesn't know.
    """
    if not text:
        return EVERYTHING
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"filters: {error}") from error
    if document is None:
        return EVERYTHING
    return _document(document, fields)


def parse_order(text: str | None, fields: Fields, key: str) -> str:
    """Translate an order to an ORDER BY list that ends in the unique column `key`.

    Without an order, what was made last comes first.

    Raises InvalidRequest for a field that cannot be ordered by.
    """
    terms, direction = [], "DESC"
    for item in text.split(",") if text else ():
        match = re.fullmatch(r"\s*([+-]?)([\w.]+)\s*", item)
        if match is None:
            raise InvalidRequest(f"invalid order: {text!r}")
        field = _field(match[2], fields)
        if field.value is not None:
            raise InvalidRequest(f"cannot order by {match[2]!r}")
        direction = "DESC" if match[1] == "-" else "ASC"
        terms.append(f"{field.sql} {direction}")
    return ", ".join([*terms, f"{key} {direction}"])


def _document(document: Any, fields: Fields) -> Condition:
    if not isinstance(document, dict):
        raise InvalidRequest("a filter is a JSON object")
    conditions = []
    for key, operand in document.items():
        if key in ("$and", "$or", "$nor"):
            parts = [_document(part, fields) for part in operand]
            joined = _join(parts, "OR" if key != "$and" else "AND")
            conditions.append(_negate(joined) if key == "$nor" else joined)
        elif key == "$not":
            conditions.append(_negate(_document(operand, fields)))
        elif key.startswith("$"):
            raise InvalidRequest(f"unknown filter operator: {key!r}")
        else:
            conditions.append(_test(_field(key, fields), operand))
    return _join(conditions, "AND")


def _test(field: Field, operand: Any) -> Condition:
    if not isinstance(operand, dict):
        return _compare(field, "IS", operand)
    return _join([_operator(field, name, value) for name, value in operand.items()], "AND")


def _operator(field: Field, name: str, operand: Any) -> Condition:
    if name == "$in":
        return _join([_compare(field, "IS", value) for value in operand], "OR")
    if name == "$nin":
        return _negate(_join([_compare(field, "IS", value) for value in operand], "OR"))
    if name == "$all":
        return _join([_compare(field, "IS", value) for value in operand], "AND")
    if name == "$ne":
        return _negate(_compare(field, "IS", operand))
    if name == "$exists":
        present = _compare(field, "IS NOT", None)
        return present if operand else _negate(present)
    if name == "$contains":
        return _compare(field, "REGEXP", re.escape(str(operand)))
    if name == "$not":
        return _negate(_test(field, operand))
    if name in COMPARISONS:
        return _compare(field, COMPARISONS[name], operand)
    raise InvalidRequest(f"unknown filter operator: {name!r}")


def _compare(field: Field, comparison: str, operand: Any) -> Condition:
    if isinstance(operand, (dict, list)):
        raise InvalidRequest(f"cannot compare with {operand!r}")
    if isinstance(operand, bool):
        operand = int(operand)
    if field.value is None:
        return Condition(sql=f"({field.sql}) {comparison} ?", parameters=(operand,))
    test = f"{field.value} {comparison} ?"
    return Condition(sql=field.sql.format(test=test), parameters=(operand,))


def _field(name: str, fields: Fields) -> Field:
    if name in fields:
        return fields[name]
    head, _, rest = name.partition(".")
    if head in fields and re.fullmatch(r"\w+(\.\w+)*", rest):
        return Field(sql=f"json_extract({fields[head].sql}, '$.{rest}')")
    raise InvalidRequest(f"unknown field: {name!r}")


def _join(conditions: list[Condition], operator: str) -> Condition:
    if not conditions:
        return EVERYTHING if operator == "AND" else Condition(sql="0", parameters=())
    return Condition(
        sql="(" + f" {operator} ".join(condition.sql for condition in conditions) + ")",
        parameters=tuple(value for condition in conditions for value in condition.parameters),
    )


def _negate(condition: Condition) -> Condition:
    return Condition(sql=f"(NOT COALESCE({condition.sql}, 0))", parameters=condition.parameters)
