"""Whatever a manifest is, it costs no more than entries that are left out, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile_manifests import (
    DEEP,
    GOOD_ROW,
    MD5,
    STRANGE_NAMES,
    STRANGE_VALUES,
    Members,
    document,
    json_object,
    tree_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = (b'"good"', GOOD_ROW)
FIELDS = (b'"digest"', b'"size"', b'"ref"', b'"birthArtifactID"', b'"extra"', b'"other"')

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
).map(lambda value: json.dumps(value).encode())
values = st.sampled_from(STRANGE_VALUES) | json_values
names = st.sampled_from(STRANGE_NAMES) | st.text(max_size=9).map(
    lambda one: json.dumps(one).encode()
)
rows = st.one_of(
    st.just(GOOD_ROW),
    values,
    st.lists(st.tuples(st.sampled_from(FIELDS), values), max_size=6).map(
        lambda fields: json_object([(b'"digest"', MD5), *fields])
    ),
)
contents = st.lists(st.tuples(names, rows), max_size=12)
heads = st.lists(
    st.tuples(
        st.sampled_from([b'"version"', b'"storagePolicy"', b'"storagePolicyConfig"', b'"other"']),
        values,
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables") / "table"


@settings(deadline=None, max_examples=300)
@given(contents)
def test_no_row_is_another_rows_harm(table: Path, strange: Members) -> None:
    found = tree_of(document([*strange, GOOD]), table)
    assert found is not None
    if not any(b'"good' in name for name, _ in strange):
        assert "good" in found


@settings(deadline=None, max_examples=200)
@given(contents, heads, st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b" \n", b"x"]))
def test_any_document(table: Path, strange: Members, head: Members, before: bytes) -> None:
    tree_of(before + document([*strange, GOOD], [(b'"version"', b"1"), *head]), table)


@settings(deadline=None, max_examples=200)
@given(contents, st.data())
def test_any_damage(table: Path, strange: Members, data: st.DataObject) -> None:
    whole = document([*strange[:3], GOOD])
    at = data.draw(st.integers(0, len(whole)))
    kind = data.draw(st.sampled_from(["cut", "left out", "changed", "doubled"]))
    rest = {
        "cut": b"",
        "left out": whole[at + 1 :],
        "changed": data.draw(st.binary(min_size=1, max_size=2)) + whole[at + 1 :],
        "doubled": whole[max(0, at - 20) :],
    }
    tree_of(whole[:at] + rest[kind], table)


@pytest.mark.parametrize("end", range(1, 60))
def test_what_is_cut_is_no_manifest(table: Path, end: int) -> None:
    whole = document([(b'"deep"', b'{"x":[{}]}'), GOOD])
    assert tree_of(whole[:-end], table) is None


@pytest.mark.parametrize("value", STRANGE_VALUES, ids=lambda value: value[:20])
@pytest.mark.parametrize("field", FIELDS, ids=bytes.decode)
def test_a_strange_field_is_one_row_less_at_most(table: Path, field: bytes, value: bytes) -> None:
    row = json_object([(b'"digest"', MD5), (field, value)])
    found = tree_of(document([(b'"strange"', row), GOOD]), table)
    assert found in (["good"], ["good", "strange"])


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=lambda name: name[:20])
def test_a_strange_name_is_one_row_less_at_most(table: Path, name: bytes) -> None:
    found = tree_of(document([(name, GOOD_ROW), GOOD]), table)
    assert found is not None
    assert "good" in found
    assert len(found) <= 2


@pytest.mark.parametrize(
    "head",
    [
        [(b'"version"', b"1" + b"0" * 5000)],
        [(b'"version"', b"1"), (b'"storagePolicy"', b'"%s"' % (b"x" * 9999))],
        [(b'"version"', DEEP)],
    ],
)
def test_errors_are_short(table: Path, head: Members) -> None:
    assert tree_of(document([GOOD], head), table) is None


def test_what_nobody_needs_may_be_anything(table: Path) -> None:
    head = [(b'"version"', b"1"), (b'"deep"', DEEP), (b'"none"', b"NaN"), (b'"\xff"', b"[]")]
    assert tree_of(b"\xef\xbb\xbf" + document([GOOD], head), table) == ["good"]


def test_the_last_of_two_rows_counts(table: Path) -> None:
    rows = [(b'"a"', b'{"digest":NaN}'), (b'"\\u0061"', GOOD_ROW), GOOD, (b'"good"', b"NaN")]
    assert tree_of(document(rows), table) == ["a"]
