"""Whether a process may still write: an answer that it slept over says nothing."""

from __future__ import annotations

import time

import pytest

from tenure.errors import LeaseLost, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.contract import Copier, Fence
from tenure.stores.journaled.ownership import ANSWER_S, Ownership

MINE = Copier(link="link", process="me", accepts=False, token=1)
THEIRS = Copier(link="link", process="another", accepts=False, token=2)


class Record:
    """A record that gives these answers, each so many seconds late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[Copier, float]) -> None:
        self.now = 1000.0
        self.answers = list(answers)
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.now)

    def read(self) -> Copier:
        answer, late_s = self.answers.pop(0)
        self.now += late_s
        return answer

    def check(self, fence: Fence) -> None:
        raise AssertionError

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        raise AssertionError

    def note(self, link: str, *, copier: str, passed: str) -> None:
        raise AssertionError

    def release(self, fence: Fence, link: str) -> None:
        raise AssertionError


def test_an_answer_is_used_for_as_long_as_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch, (MINE, 0.5), (THEIRS, 0.0))
    ownership = Ownership(record, "me", "green")
    ownership.ensure(0.0)
    record.now += 1.0
    ownership.ensure(2.0)
    record.now += 0.5
    with pytest.raises(LeaseLost, match="another process"):
        ownership.ensure(2.0)


def test_now_means_now(monkeypatch: pytest.MonkeyPatch) -> None:
    ownership = Ownership(Record(monkeypatch, (MINE, 0.0), (THEIRS, 0.0)), "me", "green")
    ownership.ensure(0.0)
    with pytest.raises(LeaseLost):
        ownership.ensure(0.0)


def test_an_answer_that_was_slept_over_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ownership = Ownership(Record(monkeypatch, (MINE, 60.0), (THEIRS, 0.0)), "me", "green")
    with pytest.raises(LeaseLost):
        ownership.ensure(0.0)


def test_a_record_that_never_answers_in_time_lets_nobody_write(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch, *[(MINE, ANSWER_S)] * 3, (THEIRS, 0.0))
    ownership = Ownership(record, "me", "green")
    with pytest.raises(StoreUnavailable):
        ownership.ensure(0.0)
    with pytest.raises(LeaseLost):
        ownership.ensure(1e9)


def test_an_open_target_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Copier(link="link", process="me", accepts=True, token=1)
    with pytest.raises(LeaseLost, match="open for the tenant"):
        Ownership(Record(monkeypatch, (opened, 0.0)), "me", "green").ensure(0.0)


def test_who_mends_needs_no_name_and_yields_to_a_newer_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    nobodys = Copier(accepts=False, token=1)
    record = Record(monkeypatch, (nobodys, 0.0), (nobodys, 0.0), (THEIRS, 0.0))
    ownership = Ownership(record, "me", "green")
    with ownership.mending(Fence(tenant=TenantId("acme"), epoch=1, token=1)):
        ownership.ensure(0.0)
        with pytest.raises(LeaseLost):
            ownership.ensure(0.0)
