"""What stores told is remembered within bounds."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from wbfs.model.lately import Lately

MOST = 3


@given(st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers()))))
def test_what_was_asked_for_least_recently_is_forgotten(
    steps: list[tuple[int, int | None]],
) -> None:
    lately: Lately[int, int] = Lately(MOST)
    model: OrderedDict[int, int] = OrderedDict()
    for key, value in steps:
        if value is None:
            assert lately.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
            continue
        lately.put(key, value)
        model.pop(key, None)
        model[key] = value
        while len(model) > MOST:
            model.popitem(last=False)
    assert all(lately.get(key) == model.get(key) for key in range(7))
