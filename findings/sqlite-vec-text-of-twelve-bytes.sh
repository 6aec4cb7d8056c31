#!/usr/bin/env bash
# sqlite-vec 0.1.9: a text column of metadata can be compared by <, <=, > and >= in a search, by its documentation. If a single row
# holds a text of exactly twelve bytes, every search with such a comparison fails: "Could not filter metadata fields". Times
# as 202401311830 and codes of that length are such texts. Eleven and thirteen bytes work, so do = and !=. The length up to
# which a text is kept in the index itself is twelve.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check sqlite-vec==0.1.9 apsw==3.54.1.0
"$place/venv/bin/python" - <<'PY'
import apsw
import sqlite_vec

database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())
(version,) = next(database.execute("SELECT vec_version()"))


def search(length, operator):
    """What a search among three texts gives, the last of which has this length."""
    database.execute("CREATE VIRTUAL TABLE films USING vec0(vector float[2], made text)")
    for text in ("2023", "2025-06-30 at noon", "202401311830Z"[:length]):
        database.execute("INSERT INTO films(vector, made) VALUES ('[1, 0]', ?)", (text,))
    asked = f"SELECT made FROM films WHERE vector MATCH '[1, 0]' AND k = 3 AND made {operator} '2024'"
    try:
        return sorted(made for (made,) in database.execute(asked))
    except apsw.SQLError as error:
        return str(error)
    finally:
        database.execute("DROP TABLE films")


for length in (11, 12, 13):
    text = "202401311830Z"[:length]
    after, before, other = search(length, ">"), search(length, "<="), search(length, "!=")
    print(f"sqlite-vec {version}, {length} bytes: > {after}; <= {before}; != {other}")
    assert other == ["2023", text, "2025-06-30 at noon"], other
    if length == 12:
        assert after == before == "Could not filter metadata fields", (after, before)
    else:
        assert (after, before) == ([text, "2025-06-30 at noon"], ["2023"]), (after, before)
PY
