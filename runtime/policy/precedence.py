"""Which of several conditional rules of one system call decides.

OCI says nothing about it, so what counts is what libseccomp's filter does, as every other runtime hands profiles to it.
It cuts each 64-bit comparison into tests of the two halves and merges the rules of a system call into a decision tree
of such tests; the tree is walked in order until a branch carries a verdict. This module builds such a tree, with the
same order and the same refusals, and reads it out as an ordered list of conjunctions for the monitor's table.

The order on one level: higher argument first, high half before low half, equality before "less" before "greater",
then the larger value (for "less" the smaller), then the earlier rule.

libseccomp's optimisations go wrong for some rare mixtures of conditions on several arguments or with "less" and
"greater": a rule is lost, or one decides whose conditions do not hold. That is not copied: here a verdict always comes
from a rule that matches. tests/test_policy_libseccomp.py holds us to that, and to libseccomp's decisions for every
profile that its filter does not contradict.
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
    """The tree has more paths than a table should have rules."""


class Branch:
    """Where an answer leads: to a verdict, to further tests, or (both None) on along the level."""

    __slots__ = ("outcome", "then")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.then: list[Test] | None = None

    def outcomes(self) -> Iterator[Outcome]:
        """Every verdict on the branch."""
        if self.outcome is not None:
            yield self.outcome
        for test in self.then or ():
            yield from test.yes.outcomes()
            yield from test.no.outcomes()


class Test:
    """One comparison of half an argument."""

    __slots__ = ("arg", "datum", "full", "high", "mask", "no", "op", "rank", "yes")

    def __init__(self, condition: Condition, high: bool, op: int) -> None:
        arg, original, value, mask = condition
        self.arg, self.high, self.op = arg, high, op
        self.mask = (mask >> 32 if high else mask) & U32
        self.datum = (value >> 32 if high else value) & self.mask
        self.full = value
        kind = 3 if original in _EQUAL else 2 if original in _LESS else 1
        # Tests stand on their level from the highest rank to the lowest.
        self.rank = (arg * 2 + high, kind, -self.datum if original in _LESS else self.datum)
        self.yes, self.no = Branch(), Branch()

    def same_test(self, other: Test) -> bool:
        ours = (self.arg, self.high, self.op, self.datum, self.mask)
        return ours == (other.arg, other.high, other.op, other.datum, other.mask)

    def is_leaf(self) -> bool:
        return self.yes.then is None and self.no.then is None


class Tree:
    """The rules of one system call."""

    __slots__ = ("always", "root")

    def __init__(self) -> None:
        self.always: Outcome | None = None  # an unconditional rule: it decides, whatever else there is
        self.root: list[Test] = []

    def add(self, conditions: Sequence[Condition], outcome: Outcome) -> None:
        """One rule: all conditions hold (at most one for an argument). `Conflict` where libseccomp says EEXIST."""
        if self.always is not None:
            return
        # A mask without bits holds always, whatever value stands beside it.
        needed = [c for c in conditions if c[1] != abi.CMP_MASKED_EQ or c[3]]
        if needed:
            _merge(self.root, _chain(sorted(needed, key=lambda c: c[0]), 0, outcome))
        else:
            self.always, self.root = outcome, []

    def rules(self) -> list[tuple[list[Condition], Outcome]]:
        """In order, the first that matches decides. The conditions are in the monitor's terms (64 bits)."""
        if self.always is not None:
            return [([], self.always)]
        return _without_repetitions(_paths(self.root))


def _chain(conditions: Sequence[Condition], at: int, outcome: Outcome) -> Test:
    """The tests of one rule from its condition number `at` on, arguments in ascending order."""
    condition = conditions[at]
    op = condition[1]
    head: Test
    if op in _EQUAL:
        kind = abi.CMP_MASKED_EQ if op == abi.CMP_MASKED_EQ else abi.CMP_EQ
        head, low = Test(condition, True, kind), Test(condition, False, kind)
        head.yes.then = [low]
        ends = [head.no, low.no] if op == abi.CMP_NE else [low.yes]
    else:
        head, middle = Test(condition, True, abi.CMP_GT), Test(condition, True, abi.CMP_EQ)
        low = Test(condition, False, abi.CMP_GT if op in (abi.CMP_GT, abi.CMP_LE) else abi.CMP_GE)
        head.no.then, middle.yes.then = [middle], [low]
        ends = [middle.no, low.no] if op in _LESS else [head.yes, low.yes]
    for end in ends:
        if at + 1 < len(conditions):
            end.then = [_chain(conditions, at + 1, outcome)]
        else:
            end.outcome = outcome
    return head


def _same(a: Outcome, b: Outcome) -> bool:
    return a[:2] == b[:2]


def _merge(level: list[Test], new: Test) -> None:
    for place, test in enumerate(level):
        if test.same_test(new):
            _merge_branch(test, test.yes, new, new.yes, larger_wins=True)
            _merge_branch(test, test.no, new, new.no, larger_wins=False)
            return
        if test.rank < new.rank:
            level.insert(place, new)
            return
    level.append(new)


def _merge_branch(test: Test, old: Branch, new_test: Test, new: Branch, *, larger_wins: bool) -> None:
    """Adds to one answer of `test` what a later rule does there."""
    if new.outcome is not None:
        if old.outcome is None:
            if not all(_same(new.outcome, other) for other in old.outcomes()):
                raise Conflict  # rules with more conditions say otherwise
            old.then, old.outcome = None, new.outcome
        elif not _same(old.outcome, new.outcome):
            # Beyond the high half of both values both rules match: of "greater" the one with the larger value decides.
            if larger_wins and new_test.high and new_test.full > test.full:
                old.outcome = new.outcome
            if test.is_leaf() or new_test.is_leaf():
                raise Conflict
    for below in new.then or ():
        if old.then is not None:
            _merge(old.then, below)
        elif old.outcome is None:
            old.then = [below]
        # else: what is there matches already, with fewer conditions


# --- reading the tree out -------------------------------------------------------------------------


class _Facts:
    """What a path has established about one argument: a range, masked equalities, values it is not."""

    __slots__ = ("hi", "high", "lo", "masked", "not_equal")

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


def _paths(root: list[Test]) -> list[tuple[list[Condition], Outcome]]:
    found: list[tuple[list[Condition], Outcome]] = []

    def follow(facts: dict[int, _Facts], test: Test, answer: bool) -> None:
        branch = test.yes if answer else test.no
        if branch.then is None and branch.outcome is None:
            return
        for alternative in facts.get(test.arg, _Facts()).after(test, answer):
            known = {**facts, test.arg: alternative}
            if branch.then is not None:
                walk(known, branch.then)
            elif branch.outcome is not None:
                if len(found) == MAX_PATHS:
                    raise TooComplex
                found.append(([c for arg in sorted(known) for c in known[arg].conditions(arg)], branch.outcome))

    def walk(facts: dict[int, _Facts], level: list[Test]) -> None:
        for test in level:
            follow(facts, test, True)
            follow(facts, test, False)

    walk({}, root)
    return found


def _without_repetitions(
    rules: list[tuple[list[Condition], Outcome]],
) -> list[tuple[list[Condition], Outcome]]:
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
