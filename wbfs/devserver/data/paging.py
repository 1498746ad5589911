"""Relay-style pages over SQL queries: `first` and `after` in, a `Connection` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from wbfs.devserver.data.database import Database, Value
from wbfs.devserver.data.ids import decode_cursor, encode_cursor
from wbfs.devserver.errors import InvalidRequest

Node = TypeVar("Node")
Other = TypeVar("Other")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageInfo:
    """Whether there is more, and from where."""

    start_cursor: str | None
    end_cursor: str | None
    has_next_page: bool
    has_previous_page: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge(Generic[Node]):
    """One row of a page, with the cursor that continues after it."""

    cursor: str
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection(Generic[Node]):
    """One page; `count` counts the rows of all pages when called."""

    edges: list[Edge[Node]]
    page_info: PageInfo
    count: Callable[[], int]

    @property
    def total_count(self) -> int:
        """The number of rows in all pages."""
        return self.count()

    def map(self, convert: Callable[[Node], Other]) -> Connection[Other]:
        """Return the same page with every node converted."""
        edges = [Edge(cursor=edge.cursor, node=convert(edge.node)) for edge in self.edges]
        return Connection(edges=edges, page_info=self.page_info, count=self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """The part of a listing that a client asks for.

    first: rows at most; None for as many as the server gives in one page.
    after: the cursor of the row before the first one; None for the start.
    """

    first: int | None
    after: str | None

    def size(self, limit: int) -> int:
        """Return the number of rows to give; raises InvalidRequest for a negative `first`."""
        if self.first is None:
            return limit
        if self.first < 0:
            raise InvalidRequest("first must not be negative")
        return min(self.first, limit)


class Pager:
    """Cuts listings of `database` into pages of at most `max_page_size` rows."""

    def __init__(self, database: Database, max_page_size: int) -> None:
        self._database = database
        self._max_page_size = max_page_size

    def rows(
        self, row: type[Node], sql: str, parameters: Sequence[Value], page: PageRequest
    ) -> Connection[Node]:
        """Return a page of the rows of `sql`, which has an ORDER BY and no LIMIT."""
        start = 0 if page.after is None else int(decode_cursor(page.after)) + 1
        size = page.size(self._max_page_size)
        found = self._database.all(row, f"{sql} LIMIT ? OFFSET ?", (*parameters, size + 1, start))
        return self._connection(
            [(str(start + i), node) for i, node in enumerate(found[:size])],
            has_next_page=len(found) > size,
            has_previous_page=start > 0,
            count=lambda: self._database.number(f"SELECT COUNT(*) FROM ({sql})", parameters) or 0,
        )

    def keyed_rows(
        self,
        row: type[Node],
        sql: str,
        parameters: Sequence[Value],
        page: PageRequest,
        column: str,
        key: Callable[[Node], str],
    ) -> Connection[Node]:
        """Return a page of the rows of `sql`, which ends in a WHERE clause.

        Rows are ordered by the unique `column`, whose value `key` tells. Unlike that of
        `rows`, the cost of a page does not grow with its distance from the start.
        """
        after = "" if page.after is None else decode_cursor(page.after)
        size = page.size(self._max_page_size)
        found = self._database.all(
            row, f"{sql} AND {column} > ? ORDER BY {column} LIMIT ?", (*parameters, after, size + 1)
        )
        return self._connection(
            [(key(node), node) for node in found[:size]],
            has_next_page=len(found) > size,
            has_previous_page=page.after is not None,
            count=lambda: self._database.number(f"SELECT COUNT(*) FROM ({sql})", parameters) or 0,
        )

    @staticmethod
    def _connection(
        positions: list[tuple[str, Node]],
        *,
        has_next_page: bool,
        has_previous_page: bool,
        count: Callable[[], int],
    ) -> Connection[Node]:
        edges = [Edge(cursor=encode_cursor(position), node=node) for position, node in positions]
        return Connection(
            edges=edges,
            page_info=PageInfo(
                start_cursor=edges[0].cursor if edges else None,
                end_cursor=edges[-1].cursor if edges else None,
                has_next_page=has_next_page,
                has_previous_page=has_previous_page,
            ),
            count=count,
        )


def whole(items: Sequence[Node]) -> Connection[Node]:
    """Return a short list as the only page of a listing."""
    edges = [Edge(cursor=encode_cursor(str(i)), node=item) for i, item in enumerate(items)]
    return Connection(
        edges=edges,
        page_info=PageInfo(
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
            has_next_page=False,
            has_previous_page=False,
        ),
        count=lambda: len(edges),
    )
