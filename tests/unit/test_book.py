"""What is told, and how often: the rules of notices, over time."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.notices.book import Book, Condition, Event, Notice, Rules

RULES = Rules(gather_s=30.0, repeat_s=3600.0)
GONE = Condition("degraded", "pc1", "pc1 can't be reached.", "Is it on?")


def refused(number: int, cause: str = "bad_rows") -> Event:
    return Event("rejected", cause, f"IV_{number}.csv", "Line 62 has 4 fields.", "Mend the line.")


def titles(notices: list[Notice]) -> list[str]:
    return [notice.title for notice in notices]


def test_a_thousand_equal_rejects_make_one_notice() -> None:
    book = Book(RULES)
    told = []
    for second in range(100):  # ten each second
        told += book.look(float(second), [], [refused(10 * second + number) for number in range(10)])
    assert titles(told) == ["Rejected (bad_rows): 310 files"]
    assert "IV_0.csv: Line 62 has 4 fields." in told[0].body
    assert "more" in told[0].body
    assert told[0].body.endswith("Mend the line.")


def test_what_came_meanwhile_is_told_when_it_is_time_again() -> None:
    book = Book(RULES)
    book.look(0.0, [], [refused(1)])
    assert titles(book.look(30.0, [], [])) == ["Rejected (bad_rows): 1 file"]
    for minute in range(1, 60):
        assert not book.look(60.0 * minute, [], [refused(minute)])
    assert titles(book.look(3631.0, [], [])) == ["Rejected (bad_rows): 59 files"]
    assert not book.look(9000.0, [], [])


def test_other_causes_are_told_apart() -> None:
    book = Book(RULES)
    book.look(0.0, [], [refused(1), refused(2, "nul_bytes"), Event("incomplete", "IV", "IV_3.csv", "10 rows of 44")])
    assert sorted(titles(book.look(30.0, [], []))) == [
        "Incomplete (IV): 1 file",
        "Rejected (bad_rows): 1 file",
        "Rejected (nul_bytes): 1 file",
    ]


def test_a_condition_is_told_once_and_then_that_it_is_over() -> None:
    book = Book(RULES)
    assert not book.look(0.0, [GONE], [])
    (notice,) = book.look(30.0, [GONE], [])
    assert (notice.title, notice.body) == ("Degraded: pc1 can't be reached.", "pc1 can't be reached. Is it on?")
    assert not book.look(3000.0, [GONE], [])
    (notice,) = book.look(3630.0, [GONE], [])
    assert notice.title == "Still degraded: pc1 can't be reached."
    assert not book.look(3700.0, [], [])
    (notice,) = book.look(3730.0, [], [])
    assert (notice.title, notice.grave) == ("Back to normal: degraded", False)
    assert notice.body == "Over after 62 min: pc1 can't be reached."


def test_what_is_over_soon_is_not_told() -> None:
    book = Book(RULES)
    told = []
    for second in range(200):
        told += book.look(float(second), [GONE] if second < 20 else [], [])
    assert not told


def test_what_comes_and_goes_is_one_condition() -> None:
    book = Book(RULES)
    told = []
    for second in range(0, 3000, 5):
        told += book.look(float(second), [GONE] if second % 20 < 10 else [], [])
    assert titles(told) == ["Degraded: pc1 can't be reached."]


def test_what_is_snoozed_waits() -> None:
    book = Book(RULES)
    snoozed = {"rejected": 1000.0}
    book.look(0.0, [GONE], [refused(1)], snoozed)
    assert titles(book.look(40.0, [GONE], [], snoozed)) == ["Degraded: pc1 can't be reached."]
    assert titles(book.look(1001.0, [GONE], [], snoozed)) == ["Rejected (bad_rows): 1 file"]
    assert not book.look(4999.0, [GONE], [refused(2)], {"all": 5000.0})


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 500.0),
            st.sets(st.sampled_from(["pc1", "pc2", "pc3"])),
            st.lists(st.sampled_from(["bad_rows", "nul_bytes"]), max_size=3),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_or_told_too_often(steps: list[tuple[float, set[str], list[str], bool]]) -> None:
    """Each event is counted in one notice, none of a cause sooner than it may be; a restart changes nothing."""
    book = Book(RULES)
    now, happened, told = 0.0, 0, []
    for wait_s, places, causes, restart in [*steps, (4000.0, set(), [], False), (4000.0, set(), [], False)]:
        now += wait_s
        happened += len(causes)
        conditions = [Condition("degraded", place, f"{place} is away.") for place in sorted(places)]
        events = [refused(number, cause) for number, cause in enumerate(causes)]
        told += [(now, notice) for notice in book.look(now, conditions, events)]
        if restart:
            book = Book(RULES, json.loads(json.dumps(book.as_dict())))
    counted: dict[str, float] = {}
    total = 0
    for at, notice in told:
        if notice.title.startswith("Rejected"):
            cause = notice.title.partition("(")[2].partition(")")[0]
            assert at - counted.get(cause, -1e9) >= RULES.repeat_s
            counted[cause] = at
            total += int(notice.title.rpartition(": ")[2].split(" ")[0].replace(",", ""))
    assert total == happened
    begun = sum(notice.grave and notice.title.startswith("Degraded") for _, notice in told)
    over = sum(notice.body.count("Over after") for _, notice in told if not notice.grave)
    assert (over > 0) == (begun > 0)
