"""The history checker: was every answer true, given what was answered before and is stored now?

It takes the operations of all clients, with their times and outcomes, and the rows of the
database after the end. Every create and update writes a value of its own (an email address), so
that each value seen tells which write it comes from. docs/faults.md lists the rules.

``unknown`` writes (503 outcome-unknown, no answer) may have happened or not, at any time from
their start on; once a read has seen their value, they have happened before that.

Whether reads and writes fit into one order is decided by zones (Gibbons and Korach, "Testing
shared memories", 1997): as every value is written once, all operations on one value must stand
together. Between the first end (``until``) and the last start (``since``) of its operations a
value was certainly the current one; two values may not be so at one time, and no value may come
and go within.

With a replica single reads are held to the rule of pages, since that is their contract then: a
write that is not acknowledged yet may be seen by one read and not by the next.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from tests.faults.harness.operations import Kind, Operation, Outcome

ABSENT = None
END = "the database at the end"


@dataclass(frozen=True, slots=True)
class PageRule:
    """How old a page may be: fresh, but for ``bound`` seconds in ``excused`` spans of time.

    A page that is marked STALE, which is only served where it cannot be read, may always be
    ``stale_bound`` seconds old. With ``reads_too`` all of it goes for reads of a single user, too.
    """

    excused: Sequence[tuple[float, float]] = ()
    bound: float = 0.0
    stale_bound: float = 0.0
    reads_too: bool = False

    def allowance(self, page: Operation) -> float:
        """Return by how many seconds ``page`` may be behind the acknowledged writes."""
        during = any(page.started < end and begin < page.ended for begin, end in self.excused)
        return max(
            self.bound if during else 0.0,
            self.stale_bound if page.cache == "STALE" else 0.0,
        )


@dataclass(slots=True)
class Verdict:
    """What is wrong with a history, a line for each finding."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    ghosts: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    stale_pages: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        return [
            f"{kind.replace('_', ' ').removesuffix('s')}: {line}"
            for kind, lines in asdict(self).items()
            for line in lines
        ]


@dataclass(slots=True)
class _Value:
    """All that is known of one value of one user: who wrote it and who saw it."""

    writes: list[Operation] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)
    seen: list[Operation] = field(default_factory=list)  # by reads under the rule of pages
    at_end: float | None = None

    @property
    def began(self) -> float:
        return min((write.started for write in self.writes), default=math.inf)

    @property
    def until(self) -> float:
        """By when it was certainly written."""
        ends = [write.ended for write in self.writes if write.outcome is Outcome.OK]
        ends += [read.ended for read in (*self.reads, *self.seen)]
        return min([*ends, math.inf if self.at_end is None else self.at_end])

    @property
    def since(self) -> float:
        """When it was certainly not overwritten yet."""
        starts = [write.started for write in self.writes if write.outcome is Outcome.OK]
        starts += [read.started for read in self.reads]
        starts += [self.began for _ in self.seen[:1]]  # it has happened, and that is all
        return max([*starts, -math.inf if self.at_end is None else self.at_end])


class _User:
    """The history of one user, from its creation to its deletion."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id
        self.name = ""
        self.values: dict[str | None, _Value] = defaultdict(_Value)

    @cached_property
    def writes(self) -> list[Operation]:
        return [write for value in self.values.values() for write in value.writes]

    @cached_property
    def created(self) -> Operation | None:
        return next((write for write in self.writes if write.kind is Kind.CREATE), None)

    @cached_property
    def acknowledged(self) -> list[Operation]:
        return [write for write in self.writes if write.outcome is Outcome.OK]

    @cached_property
    def deletes(self) -> list[Operation]:
        return [write for write in self.acknowledged if write.kind is Kind.DELETE]

    @cached_property
    def deleted_from(self) -> float:
        """Return from when on somebody may have deleted this user."""
        return self.values[ABSENT].began


def check(
    operations: Iterable[Operation], rows: Mapping[int, str], pages: PageRule | None = None
) -> Verdict:
    """Return what is wrong; ``rows`` holds the value of each user that is stored at the end."""
    return _Check(list(operations), rows, pages or PageRule()).verdict


class _Check:
    def __init__(
        self, operations: list[Operation], rows: Mapping[int, str], pages: PageRule
    ) -> None:
        self.verdict = Verdict()
        self.operations = operations
        self.rows = rows
        self.page_rule = pages
        self.end = max((operation.ended for operation in operations), default=0.0) + 1.0
        self.writer = self._writers()
        self.users: dict[int, _User] = {}
        self._gather()
        for user in self.users.values():
            if len(user.deletes) > 1:
                line = f"user {user.user_id} was deleted twice: {user.deletes[1]}"
                self.verdict.twice.append(line)
            self._check_order(user)
            self._check_seen(user)
        self._check_conflicts()
        self._check_pages()

    def _writers(self) -> dict[str, Operation]:
        writers: dict[str, Operation] = {}
        for operation in self.operations:
            if operation.kind in (Kind.CREATE, Kind.UPDATE) and operation.value is not None:
                assert operation.value not in writers, f"value written twice: {operation}"
                writers[operation.value] = operation
        return writers

    def _user(self, user_id: int) -> _User:
        return self.users.setdefault(user_id, _User(user_id))

    def _gather(self) -> None:
        for operation in self.operations:
            self._gather_write(operation)
        for operation in self.operations:
            if operation.kind is not Kind.LIST and operation.user_id is not None:
                self._gather_read(operation, operation.user_id)
        for page in self.operations:
            for user_id, value in (page.users or {}).items():
                self._attribute(user_id, value, str(page))
        for user_id, value in self.rows.items():
            if self._attribute(user_id, value, END):
                self.users[user_id].values[value].at_end = self.end
        for user in self.users.values():
            if user.user_id not in self.rows:
                user.values[ABSENT].at_end = self.end

    def _gather_write(self, operation: Operation) -> None:
        if operation.user_id is None or operation.outcome not in (Outcome.OK, Outcome.UNKNOWN):
            return
        user = self._user(operation.user_id)
        if operation.kind is Kind.CREATE:
            if user.name:
                self.verdict.twice.append(f"one id for two users: {operation}")
            user.name = operation.name
        if operation.kind is Kind.DELETE:
            user.values[ABSENT].writes.append(operation)
        elif operation.kind in (Kind.CREATE, Kind.UPDATE):
            user.values[operation.value].writes.append(operation)

    def _gather_read(self, operation: Operation, user_id: int) -> None:
        by_page_rule = self.page_rule.reads_too and operation.kind is Kind.READ
        if operation.status == 404:
            facts = self._user(user_id).values[ABSENT]
        elif operation.kind is Kind.READ and operation.outcome is Outcome.OK:
            assert operation.value is not None
            if not self._attribute(user_id, operation.value, str(operation)):
                return
            facts = self.users[user_id].values[operation.value]
        else:
            return
        (facts.seen if by_page_rule else facts.reads).append(operation)

    def _attribute(self, user_id: int, value: str, seen_by: str) -> bool:
        """Tell whether ``value`` may be seen on the user, and note what that teaches."""
        write = self.writer.get(value)
        if write is None:
            self.verdict.ghosts.append(f"nobody wrote {value}, seen by {seen_by}")
        elif write.outcome in (Outcome.FAILED, Outcome.REFUSED):
            self.verdict.ghosts.append(f"{write} was seen by {seen_by}")
        elif write.user_id not in (None, user_id):
            self.verdict.twice.append(f"{write} is also user {user_id}, seen by {seen_by}")
        else:
            self._learn(user_id, value, write, seen_by)
            return True
        return False

    def _learn(self, user_id: int, value: str, write: Operation, seen_by: str) -> None:
        user = self._user(user_id)
        if write.kind is Kind.CREATE and write.user_id is None:  # its outcome was unknown
            others = [
                other.user_id
                for other in self.users.values()
                if other is not user and write in other.values[value].writes
            ]
            if others:
                self.verdict.twice.append(f"{write} is user {others[0]} and {user_id}, {seen_by}")
            elif write not in user.values[value].writes:
                user.values[value].writes.append(write)
                user.name = write.name

    def _check_order(self, user: _User) -> None:
        known = {
            value: facts
            for value, facts in user.values.items()
            if facts.reads or facts.seen or facts.at_end is not None or facts.until < math.inf
        }
        for value, facts in known.items():
            self._check_beginning(user, value, facts)
        zones = sorted(known.items(), key=lambda item: item[1].until)
        for index, (value, facts) in enumerate(zones):
            for other_value, other in zones[index + 1 :]:
                if _collide(facts, other):
                    self._report_order(user, (value, facts), (other_value, other))

    def _check_beginning(self, user: _User, value: str | None, facts: _Value) -> None:
        if facts.began <= facts.until:
            return
        if value is ABSENT:
            reads = (*facts.reads, *facts.seen)
            seen_by = min(reads, key=lambda each: each.ended, default=None) or END
            self.verdict.lost.append(f"nobody deleted user {user.user_id}, absent in: {seen_by}")
        else:
            self.verdict.ghosts.append(f"{value} was read before its write began")

    def _check_seen(self, user: _User) -> None:
        for value, facts in list(user.values.items()):
            for read in facts.seen if value is not ABSENT else ():
                before = read.started - self.page_rule.allowance(read)
                if line := _outdated_in(read, value, user, before):
                    self.verdict.stale.append(line)

    def _report_order(
        self, user: _User, one: tuple[str | None, _Value], two: tuple[str | None, _Value]
    ) -> None:
        line = f"user {user.user_id} was both " + " and ".join(
            f"{value or 'absent'} (certain from {facts.until:.3f} to {facts.since:.3f}"
            f"{', ' + END if facts.at_end is not None else ''})"
            for value, facts in (one, two)
        )
        # Without what is stored at the end: could the answers alone be true?
        by_answers = _collide(replace(one[1], at_end=None), replace(two[1], at_end=None))
        (self.verdict.stale if by_answers else self.verdict.lost).append(line)

    def _check_conflicts(self) -> None:
        holders: dict[str, list[tuple[Operation, float]]] = defaultdict(list)
        for user in self.users.values():
            if (created := user.created) is not None:
                gone = min((each.ended for each in user.deletes), default=math.inf)
                holders[user.name].append((created, gone))
        seen = {id(user.created) for user in self.users.values()}
        creates = [each for each in self.operations if each.kind is Kind.CREATE]
        for create in creates:
            if create.outcome is Outcome.UNKNOWN and id(create) not in seen:
                holders[create.name].append((create, math.inf))
        for create in creates:
            if create.status == 409 and not any(
                holder.started < create.ended and gone > create.started
                for holder, gone in reversed(holders[create.name])
            ):
                self.verdict.twice.append(f"nobody else held the name: {create}")

    def _check_pages(self) -> None:
        pages = [
            (page.started - self.page_rule.allowance(page), page)
            for page in self.operations
            if page.kind is Kind.LIST and page.users is not None
        ]
        coming = sorted(
            (
                (user.created.ended, user)
                for user in self.users.values()
                if user.created is not None and user.created.outcome is Outcome.OK
            ),
            key=lambda item: item[0],
            reverse=True,
        )
        there: list[_User] = []  # created by the time in question, and not deleted before it
        for before, page in sorted(pages, key=lambda item: item[0]):
            while coming and coming[-1][0] < before:
                there.append(coming.pop()[1])
            there = [user for user in there if user.deleted_from >= before]
            self.verdict.stale_pages += _stale_in(page, before, there, self.users)


def _collide(one: _Value, two: _Value) -> bool:
    """Tell whether both were certainly current at one time, or one came and went within."""
    if one.until < one.since and two.until < two.since:
        return max(one.until, two.until) < min(one.since, two.since)
    for outer, inner in ((one, two), (two, one)):
        if outer.until < outer.since:
            return outer.until < inner.since and inner.until < outer.since
    return False


def _stale_in(
    page: Operation, before: float, there: Iterable[_User], users: Mapping[int, _User]
) -> list[str]:
    """Return in what ``page`` is older than ``before``; ``there`` are the users who were."""
    shown = page.users or {}
    missing = [
        f"{page} does not show {user.created}"
        for user in there
        if user.user_id not in shown and user.deleted_from >= page.ended
    ]
    outdated = [
        _outdated_in(page, value, users[user_id], before)
        for user_id, value in shown.items()
        if user_id in users
    ]
    allowed = f"{page.started - before:.1f} s allowed"
    return [f"{line}, {allowed}" for line in (*missing, *outdated) if line]


def _outdated_in(page: Operation, shown: str | None, user: _User, before: float) -> str:
    """Return what was acknowledged ``before`` and makes what ``page`` shows out of date."""
    for write in user.acknowledged:
        # A delete is the end, whatever else went on at its time.
        if write.ended < before and (
            write.kind is Kind.DELETE or write.started > user.values[shown].until
        ):
            return f"{page} shows {shown} in spite of {write}"
    return ""
