"""Which of several conditional rules of one system call decides.

OCI says nothing about it, so what counts is what libseccomp's filter does, as every other runtime hands profiles to it.
It cuts each 64-bit comparison into tests of the two halves and merges the rules of a system call into a decision
graph of such tests, most specific first; the graph is walked until a test's branch carries a verdict. This module
builds the same graph, errors and odd corners included (tests/test_policy_libseccomp.py compares decisions with the real
library), and then reads it out as an ordered list of conjunctions for the monitor's table.

The order on one level of the graph: higher argument first, high half before low half, equality before "less" before
"greater", then the larger value (for "less" the smaller), then the earlier rule.
"""

from __future__ import annotations

from pysandbox.runtime import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    # (argument 0..5, abi.CMP_*, value, mask); mask is ~0 except for MASKED_EQ
    Condition: TypeAlias = tuple[int, int, int, int]
    # (verdict, data, rule id)
    Outcome: TypeAlias = tuple[int, int, int]

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF
MAX_PATHS = 4096

_EQUAL = (abi.CMP_EQ, abi.CMP_NE, abi.CMP_MASKED_EQ)
_LESS = (abi.CMP_LT, abi.CMP_LE)


class Conflict(Exception):
    """Two rules match the same calls with different actions, and neither is more specific."""


class TooComplex(Exception):
    """The graph has more paths than a table should have rules."""


class Test:
    """One comparison of half an argument, and where its two answers lead: a verdict, another test, or on along the level."""

    __slots__ = ("arg", "datum", "full", "high", "level", "mask", "no", "no_then", "op", "rank", "yes", "yes_then")

    def __init__(self, condition: Condition, high: bool, op: int) -> None:
        arg, original, value, mask = condition
        self.arg, self.high, self.op = arg, high, op
        self.mask = (mask >> 32 if high else mask) & U32
        self.datum = (value >> 32 if high else value) & self.mask
        self.full = value
        kind = 3 if original in _EQUAL else 2 if original in _LESS else 1
        self.rank = (arg * 2 + high, kind, -self.datum if original in _LESS else self.datum)
        self.yes: Outcome | None = None
        self.no: Outcome | None = None
        self.yes_then: Test | None = None
        self.no_then: Test | None = None
        self.level: list[Test] = [self]

    def same_test(self, other: Test) -> bool:
        return (self.arg, self.high, self.op, self.datum, self.mask) == (
            other.arg,
            other.high,
            other.op,
            other.datum,
            other.mask,
        )

    def is_before(self, other: Test) -> bool:
        """True when `other`, which comes later, stays behind this one; equals keep the order they came in."""
        return not self.rank < other.rank

    def actions(self) -> Iterator[Outcome]:
        """Every verdict on the whole level and below."""
        for test in self.level:
            for outcome, below in ((test.yes, test.yes_then), (test.no, test.no_then)):
                if outcome is not None:
                    yield outcome
                if below is not None:
                    yield from below.actions()


class Graph:
    """The rules of one system call."""

    __slots__ = ("always", "root")

    def __init__(self) -> None:
        self.always: Outcome | None = None  # an unconditional rule: it decides, whatever else there is
        self.root: Test | None = None

    def add(self, conditions: Sequence[Condition], outcome: Outcome) -> None:
        """One rule: all conditions hold (at most one for an argument). `Conflict` as libseccomp's EEXIST."""
        if self.always is not None:
            return
        chain = _chain(conditions, outcome)
        if chain is None:
            self.always, self.root = outcome, None
        elif self.root is None:
            self.root = chain
        else:
            self.root = _merge(self.root, chain)

    def rules(self) -> list[tuple[list[Condition], Outcome]]:
        """In order, the first that matches decides. The conditions are in the monitor's terms (64 bits)."""
        if self.always is not None:
            return [([], self.always)]
        return _simplified(_paths(self.root)) if self.root is not None else []


def _chain(conditions: Sequence[Condition], outcome: Outcome) -> Test | None:
    """The tests of one rule, None when it has none. Arguments in ascending order, as libseccomp takes them."""
    first: Test | None = None
    loose: list[tuple[Test, bool]] = []  # tests whose yes (True) or no branch goes on to the next argument
    for condition in sorted(conditions, key=lambda c: c[0]):
        _arg, op, _value, mask = condition
        if op == abi.CMP_MASKED_EQ and mask == 0:  # holds always, whatever the value says
            continue
        head: Test
        if op in _EQUAL:
            kind = abi.CMP_MASKED_EQ if op == abi.CMP_MASKED_EQ else abi.CMP_EQ
            head, low = Test(condition, True, kind), Test(condition, False, kind)
            head.yes_then = low
            ends = [(head, False), (low, False)] if op == abi.CMP_NE else [(low, True)]
        else:
            head, middle = Test(condition, True, abi.CMP_GT), Test(condition, True, abi.CMP_EQ)
            low = Test(condition, False, abi.CMP_GT if op in (abi.CMP_GT, abi.CMP_LE) else abi.CMP_GE)
            head.no_then, middle.yes_then = middle, low
            ends = [(middle, False), (low, False)] if op in _LESS else [(head, True), (low, True)]
        for test, yes in loose:
            if yes:
                test.yes_then = head
            else:
                test.no_then = head
        first = first or head
        loose = ends
    for test, yes in loose:
        if yes:
            test.yes = outcome
        else:
            test.no = outcome
    return first


def _same(a: Outcome, b: Outcome) -> bool:
    return a[:2] == b[:2]


def _covers(below: Test | None, outcome: Outcome) -> None:
    """A verdict is about to replace everything below a branch: fine when that says the same."""
    if below is not None and not all(_same(outcome, other) for other in below.actions()):
        raise Conflict


def _merge(old: Test, new: Test) -> Test:
    """Puts `new` (alone on its level) into the level of `old`; returns the level's test that the parent refers to from now on.

    Branches are shared between parents on purpose: the two ways into "greater than" lead to the same next level, and what
    another rule adds there is seen by both.
    """
    level = old.level
    at = level.index(old)
    while True:
        test = level[at]
        if test.same_test(new):
            _merge_into(test, new)
            return old
        if test.is_before(new):
            if at + 1 == len(level):
                level.append(new)
                new.level = level
                return old
            at += 1
            continue
        level.insert(at, new)
        new.level = level
        return new if test is old else old


def _merge_into(test: Test, new: Test) -> None:
    if new.yes is not None:
        if test.yes is None:
            _covers(test.yes_then, new.yes)
            test.yes_then, test.yes = None, new.yes
        elif not _same(test.yes, new.yes):
            if new.high and new.full > test.full:
                test.yes = new.yes
            if _is_leaf(test) or _is_leaf(new):
                raise Conflict
    if new.no is not None:
        if test.no is None:
            _covers(test.no_then, new.no)
            test.no_then, test.no = None, new.no
        elif not _same(test.no, new.no) and (_is_leaf(test) or _is_leaf(new)):
            raise Conflict
    if new.yes_then is not None:
        if test.yes_then is not None:
            test.yes_then = _merge(test.yes_then, new.yes_then)
        elif test.yes is None:
            test.yes_then = new.yes_then
        else:  # what is there decides already; the rest of the rule is dropped with it
            return
    if new.no_then is not None:
        if test.no_then is not None:
            test.no_then = _merge(test.no_then, new.no_then)
        elif test.no is None:
            test.no_then = new.no_then


def _is_leaf(test: Test) -> bool:
    return test.yes_then is None and test.no_then is None


# --- reading the graph out -------------------------------------------------------------------------


class _Facts:
    """What a path has established about one argument: a range, masked equalities, values it is not."""

    __slots__ = ("high", "hi", "lo", "masked", "not_equal")

    def __init__(self) -> None:
        self.lo, self.hi = 0, U64
        self.high: int | None = None  # the high half, when it is known to equal this
        self.masked: tuple[tuple[int, int], ...] = ()  # (mask, value)
        self.not_equal: tuple[int, ...] = ()

    def copy(self) -> _Facts:
        new = _Facts.__new__(_Facts)
        new.lo, new.hi, new.high = self.lo, self.hi, self.high
        new.masked, new.not_equal = self.masked, self.not_equal
        return new

    def within(self, lo: int, hi: int) -> _Facts | None:
        new = self.copy()
        new.lo, new.hi = max(self.lo, lo), min(self.hi, hi)
        return new if new.lo <= new.hi else None

    def after(self, test: Test, answer: bool) -> list[_Facts]:
        """The alternatives, none of them empty, that the answer leaves."""
        out: list[_Facts | None]
        if test.op == abi.CMP_MASKED_EQ:
            if not answer:  # no rule goes on behind the "no" of a masked comparison
                raise AssertionError("masked comparison with a no branch")
            new = self.copy()
            mask, value = (test.mask << 32, test.datum << 32) if test.high else (test.mask, test.datum)
            new.masked = (*self.masked, (mask, value))
            out = [new]
        elif test.high:
            first, last = test.datum << 32, test.datum << 32 | U32
            if test.op == abi.CMP_GT:
                out = [self.within(last + 1, U64) if answer else self.within(0, last)]
            elif answer:
                out = [self.within(first, last)]
                if out[0] is not None:
                    out[0].high = test.datum
            else:
                out = [self.within(0, first - 1), self.within(last + 1, U64)]
        else:
            if self.high is None:
                raise AssertionError("a low half is only tested behind its high half")
            value = self.high << 32 | test.datum
            if test.op == abi.CMP_EQ:
                if answer:
                    out = [self.within(value, value)]
                else:
                    new = self.copy()
                    new.not_equal = (*self.not_equal, value)
                    out = [new]
            else:
                edge = value + (test.op == abi.CMP_GT)
                out = [self.within(edge, U64) if answer else self.within(0, edge - 1)]
        return [facts for facts in out if facts is not None and not facts.impossible()]

    def impossible(self) -> bool:
        return self.lo == self.hi and self.lo in self.not_equal

    def conditions(self, arg: int) -> list[Condition]:
        out: list[Condition] = []
        if self.lo == self.hi:
            out.append((arg, abi.CMP_EQ, self.lo, U64))
        else:
            if self.lo:
                out.append((arg, abi.CMP_GE, self.lo, U64))
            if self.hi != U64:
                out.append((arg, abi.CMP_LE, self.hi, U64))
            out += [(arg, abi.CMP_NE, value, U64) for value in self.not_equal if self.lo <= value <= self.hi]
        if len(self.masked) == 2 and self.masked[0][0] >> 32 and not self.masked[1][0] >> 32:
            (m0, v0), (m1, v1) = self.masked  # the two halves of one comparison
            out.append((arg, abi.CMP_MASKED_EQ, v0 | v1, m0 | m1))
        else:
            out += [(arg, abi.CMP_MASKED_EQ, value, mask) for mask, value in self.masked if mask or value]
        return out


def _paths(root: Test) -> list[tuple[list[Condition], Outcome]]:
    found: list[tuple[list[Condition], Outcome]] = []

    def branch(facts: dict[int, _Facts], test: Test, answer: bool) -> None:
        then, outcome = (test.yes_then, test.yes) if answer else (test.no_then, test.no)
        if then is None and outcome is None:
            return
        for alternative in facts.get(test.arg, _Facts()).after(test, answer):
            known = {**facts, test.arg: alternative}
            if then is not None:
                walk(known, then)
            elif outcome is not None:
                if len(found) == MAX_PATHS:
                    raise TooComplex
                found.append(([c for arg in sorted(known) for c in known[arg].conditions(arg)], outcome))

    def walk(facts: dict[int, _Facts], start: Test) -> None:
        for test in start.level:
            branch(facts, test, True)
            branch(facts, test, False)

    walk({}, root)
    return found


def _simplified(rules: list[tuple[list[Condition], Outcome]]) -> list[tuple[list[Condition], Outcome]]:
    """Without rules that repeat an earlier one's conditions, or follow one without conditions."""
    out: list[tuple[list[Condition], Outcome]] = []
    seen: set[tuple[Condition, ...]] = set()
    for conditions, outcome in rules:
        key = tuple(conditions)
        if key not in seen:
            seen.add(key)
            out.append((conditions, outcome))
        if not key:
            break
    return out
