"""Hypothesis strategies of JSON bodies: right, nearly right, huge numbers, deep nests, no JSON."""

import json

from arrow_bodies import append_rows, request_rows
from hypothesis import strategies as st

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**400), 2**63, -(2**63) - 1, 0.5, 1e308]),
    st.floats(),  # NaN and infinity too, which Python's writer spells out
    st.text(max_size=9),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def _request(row):
    history = {name: row.pop(f"history_{name}") for name in ("ids", "actions", "times_ms")}
    return row if history["ids"] is None else {**row, "history": history}


@st.composite
def objects(draw, rows):
    """An object that is right but for some of its fields, at any depth."""
    made = draw(rows)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        where = made
        if isinstance(made.get("history"), dict) and draw(st.booleans()):
            where = made["history"]
        name = draw(
            st.sampled_from([*sorted(where), "pickle", "__class__", "", "\ud800", "x" * 9_000])
        )
        how = draw(st.sampled_from(["drop", "value", "item"]))
        if how == "drop":
            where.pop(name, None)
        elif how == "item" and isinstance(where.get(name), list):
            where[name] = [*where[name], draw(values)]
        else:
            where[name] = draw(values)
    return made


@st.composite
def texts(draw, rows):
    """Texts of an object, at times cut, doubled or with bytes that are no UTF-8."""
    made = draw(objects(rows))
    text = json.dumps(made, ensure_ascii=draw(st.booleans()))
    body = text.encode("utf-8", errors="surrogatepass")
    how = draw(st.sampled_from(["", "", "", "", "cut", "twice", "bytes", "key", "bom", "utf-16"]))
    if how == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if how == "twice":
        return body + body
    if how == "bytes":
        at = draw(st.integers(0, len(body)))
        return body[:at] + draw(st.binary(min_size=1, max_size=3)) + body[at:]
    if how == "key":  # a key said twice
        return body[:-1] + b', "user_id": -1, "user_id": 3}'
    if how == "bom":
        return b"\xef\xbb\xbf" + body
    return text.encode("utf-16", errors="surrogatepass") if how == "utf-16" else body


def _deep(depth, kind):
    return (b"[" * depth + b"]" * depth) if kind else (b'{"history":' * depth + b"}" * depth)


nonsense = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda value: json.dumps(value).encode(), values),
    st.builds(_deep, st.integers(1, 20_000), st.booleans()),
    st.builds(lambda n: b'{"k": ' + b"9" * n + b"}", st.integers(1, 10_000)),
)

rank_bodies = st.one_of(
    texts(request_rows().map(_request)), texts(request_rows().map(_request)), nonsense
)
event_bodies = st.one_of(texts(append_rows()), texts(append_rows()), nonsense)

_numbers = st.one_of(
    st.sampled_from(["", "0", "1", "2", "-1", "x", "1.0", "nan", "1" * 30, "1" * 300, "1" * 4301]),
    st.sampled_from(
        ["%00", "%ff", "%f0%9f", "1_0", "%2b1", "0x1", "[]", "٣", "9223372036854775808"]
    ),
    st.integers().map(str),
)
queries = st.builds(
    lambda pairs: "?" + "&".join(f"{name}={value}" for name, value in pairs) if pairs else "",
    st.lists(st.tuples(st.sampled_from(["slot", "min_version", "min_version", "x"]), _numbers),
             max_size=2),
)  # fmt: skip
# A slash or a dot would make another path of it.
users = st.one_of(_numbers, st.text(max_size=5)).filter(
    lambda text: text.strip(".") and not set(text) & set("/?#\\")
)
media_types = st.one_of(
    st.sampled_from(["", "text/plain", "application/x-pickle", "application/json;charset=utf-16",
                     "APPLICATION/JSON", "application/vnd.apache.arrow.stream; x=1"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
)  # fmt: skip
