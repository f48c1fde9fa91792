"""Rounds: every candidate tried once, here or by workers; those whose worker died once more, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from autoadapt.errors import RankingError
from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.engines import Engine, Lost, Task
from autoadapt.ranking.journals import Journal
from autoadapt.ranking.results import Ranked
from autoadapt.ranking.trials import Place, refused, tried


def carried_out(
    candidates: Sequence[Candidate],
    place: Place,
    journal: Journal,
    engine: Engine | None,
    tell: Callable[[str], None] = lambda _text: None,
    until: float = float("inf"),
) -> Generator[Ranked, None, None]:
    """The row of each candidate as soon as it is there; what the journal knows comes first, and is not tried.

    Args:
        candidates: What is to be tried.
        place: Where.
        journal: Written to by this process alone.
        engine: Who tries them; the caller's own process where None.
        tell: Told what begins.
        until: On the clock of `monotonic`, when no other candidate is begun; those that are left have no row.
    """
    known = {candidate: journal.row(candidate, place.images) for candidate in candidates}
    yield from (row for row in known.values() if row is not None)
    unknown = _told((candidate for candidate, row in known.items() if row is None), tell, until)
    if engine is None:
        yield from (_noted(candidate, place, journal) for candidate in unknown)
        return
    by_name = {candidate.name: candidate for candidate in candidates}
    for row in _by_workers(unknown, place, engine, tell, until):
        journal.end(by_name[row.source], row)
        yield row


def _told(candidates: Iterable[Candidate], tell: Callable[[str], None], until: float) -> Iterator[Candidate]:
    for candidate in candidates:
        if time.monotonic() >= until:
            return
        tell(candidate.name)
        yield candidate


def _noted(candidate: Candidate, place: Place, journal: Journal) -> Ranked:
    journal.begin(candidate)
    try:
        row = tried(candidate, place)
        journal.end(candidate, row)
    except BaseException:
        journal.take_back()
        raise
    return row


def _by_workers(
    candidates: Iterable[Candidate], place: Place, engine: Engine, tell: Callable[[str], None], until: float
) -> Iterator[Ranked]:
    """All of them, then those whose worker died, one at a time, as long as there is time.

    A death that may have been a neighbour's does not count: such a candidate has its two tries alone.
    """
    lost, staying = list[tuple[Task, int]](), list[Ranked]()
    for task, outcome in engine.outcomes(place, _packed(candidates, staying)):
        if isinstance(outcome, Ranked):
            yield outcome
        elif outcome.again:
            tell(f"the worker that tried {task.name} died: {outcome.said}")
            lost.append((task, 1 + outcome.neighbours))
        else:
            yield _deadly(task, outcome)
    yield from staying
    for one, tries in lost:
        if time.monotonic() >= until:
            return
        yield _alone(one, tries, place, engine, tell)


def _alone(task: Task, tries: int, place: Place, engine: Engine, tell: Callable[[str], None]) -> Ranked:
    while True:
        tell(f"{task.name} once more")
        [(_, outcome)] = engine.outcomes(place, [task])
        tries -= 1
        if isinstance(outcome, Ranked):
            return outcome
        if not tries:
            return _deadly(task, outcome)


def _packed(candidates: Iterable[Candidate], staying: list[Ranked]) -> Iterator[Task]:
    """Those that can travel; why the others cannot is noted."""
    for candidate in candidates:
        try:
            yield Task.of(candidate)
        except RankingError as error:
            staying.append(refused(candidate, error))


def _deadly(task: Task, lost: Lost) -> Ranked:
    said = f"its worker died each time it was tried: {lost.said}"
    return Ranked(source=task.name, refused=said, remedy="rank it alone, or with more memory for each worker")
