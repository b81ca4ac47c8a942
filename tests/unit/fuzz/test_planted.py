"""The fuzzer is able to fail: each kind of fault is found when it is planted."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from relaygr.v1.expander_pb2 import LookupRequest
from relaygr.v1.router_pb2 import RouterServiceRankRequest
from tests.fuzz.calls import judged
from tests.fuzz.corpus import kept
from tests.fuzz.run import fuzz
from tests.fuzz.verdict import Kind, Tally
from tests.unit.fuzz import planted

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def fuzzed(fault: Any, corpus: Path, inputs: int = 120, limit_s: float = 5.0, **options: Any) -> Tally:
    return asyncio.run(fuzz("planted", planted.opener(fault), inputs, 1, corpus=corpus, limit_s=limit_s, **options))


def test_a_subject_without_faults_has_none(tmp_path: Path) -> None:
    tally = fuzzed(lambda subject: None, tmp_path)
    assert (tally.inputs, tally.counts[Kind.ACCEPTED], tally.faults) == (120, 120, {})
    assert tally.to_json()["accepted_share"] == 1.0


def test_a_crash_is_found_once_and_kept_small(tmp_path: Path) -> None:
    tally = fuzzed(planted.crashes, tmp_path)
    assert tally.counts[Kind.CRASH] > 1
    assert [name.split(" in ")[0] for name in tally.faults] == ["crashes: KeyError"]
    assert [data for _, data in kept("planted", tmp_path)] == [planted.BAD]


def test_an_error_that_is_only_logged_is_a_crash(tmp_path: Path) -> None:
    def logs(_: Any) -> None:
        try:
            planted.crashes(_)
        except KeyError:
            logging.getLogger("planted").exception("caught")

    assert fuzzed(logs, tmp_path).counts[Kind.CRASH]


@pytest.mark.parametrize("fault", [planted.spins, planted.waits])
def test_a_hang_is_found_also_when_nobody_else_can_run(tmp_path: Path, fault: Any) -> None:
    tally = fuzzed(fault, tmp_path, inputs=14, limit_s=0.05)
    assert tally.counts[Kind.HANG] and not tally.counts[Kind.CRASH]
    assert planted.BAD in kept("planted", tmp_path)[0][1]


@pytest.mark.parametrize(
    ("fault", "what"),
    [(planted.fills_a_table, "held"), (planted.keeps_memory, "memory"), (planted.keeps_tasks, "tasks")],
)
def test_a_leak_is_found(tmp_path: Path, fault: Any, what: str) -> None:
    tally = fuzzed(fault, tmp_path, inputs=600)
    planted.KEPT.clear()
    assert [name.split(": ")[1].split(" ")[0] for name in tally.faults] == [what]
    assert tally.counts[Kind.LEAK] == 1


def test_files_that_stay_open_are_found(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    assert any("open files" in name for name in fuzzed(planted.keeps_files, tmp_path, inputs=300).faults)
    for left in set(os.listdir("/proc/self/fd")) - before:
        os.close(int(left))


def test_what_was_kept_is_given_first_and_told_by_its_name(tmp_path: Path) -> None:
    fuzzed(planted.crashes, tmp_path)
    (name, _), *_ = kept("planted", tmp_path)
    again = fuzzed(planted.crashes, tmp_path, inputs=0)
    assert (again.replayed, again.counts[Kind.CRASH], list(again.faults.values())) == (1, 1, [name])
    assert fuzzed(lambda subject: None, tmp_path, inputs=0).faults == {}


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("key.user: must not be empty", Kind.REJECTED),
        ("request: cannot be parsed", Kind.REJECTED),
        ("user: must not be empty", Kind.WITHOUT_FIELD),
        ("something is wrong", Kind.WITHOUT_FIELD),
        ("", Kind.WITHOUT_FIELD),
    ],
)
def test_a_refusal_must_name_a_field_of_the_request(details: str, kind: Kind) -> None:
    assert judged(LookupRequest, INVALID, details).kind is kind


def test_a_rank_that_is_passed_on_may_be_refused_in_the_rankers_words() -> None:
    assert judged(RouterServiceRankRequest, INVALID, "candidates.count: 0").kind is Kind.REJECTED
    assert judged(RouterServiceRankRequest, INVALID, "history.inline.behaviours.dense: odd").kind is Kind.REJECTED
    assert judged(RouterServiceRankRequest, INVALID, "nothing.known: 0").kind is Kind.WITHOUT_FIELD


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_a_bugs_status_is_a_crash(code: grpc.StatusCode) -> None:
    assert judged(LookupRequest, code, "internal error").kind is Kind.CRASH
