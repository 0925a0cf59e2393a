"""What each button asks, does, says, and leaves in the audit log."""

import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from app.common.comparison import DIFFERENCES, PROGRESS
from app.common.inspection import suspended
from app.common.jobs import queue
from app.console import actions
from tests.unit.console.conftest import Console
from tests.unit.console.standin import record, rejected


def test_a_button_asks_once_does_it_says_so_and_is_written_down(console: Console) -> None:
    browser = console.browser()
    asked = browser.get("/do/pause")
    assert "Pause the workers?" in asked.text
    assert not suspended(console.redis)
    done = console.press(browser, "pause", back="/actions")
    assert suspended(console.redis)
    assert done.request.path == "/actions"
    assert "The workers are paused" in done.text
    assert console.audited() == [("signed in", ""), ("asked to pause", ""), ("pause", "")]
    console.press(browser, "resume")
    assert not suspended(console.redis)


def test_every_entry_of_the_audit_log_says_when_from_where_and_how(console: Console) -> None:
    console.do("pause")
    [entry, _] = console.parts.audit.page(0, 10)[1]
    assert (entry["address"], entry["how"]) == ("127.0.0.1", "api")
    assert entry["at"].startswith("20")
    assert "paused" in entry["outcome"]


def test_what_cannot_be_written_down_is_not_done(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_entry: str) -> None:
        raise RedisConnectionError("full")

    monkeypatch.setattr(console.parts.audit, "write", broken)
    assert console.program().post("/do/pause", json={}).status_code == 503
    assert not suspended(console.redis)


def test_a_comparison_waits_for_a_worker_and_a_dry_run_says_that_it_is_one(console: Console) -> None:
    for action, told in (("compare", {}), ("dry-run", {"dry_run": True})):
        console.do(action)
        [job] = queue("reconcile", console.redis).get_jobs()
        assert (job.func_name, job.kwargs) == ("app.worker.jobs.reconcile_buckets", told)
        answer = console.program().post("/do/compare", json={})
        assert (answer.status_code, "under way" in answer.get_json()["error"]) == (409, True)
        job.delete()


def test_the_progress_and_the_result_of_a_comparison_are_shown(console: Console) -> None:
    progress: Any = {
        "began_at": 1.0,
        "dry_run": 1,
        "pages": 3,
        "found": json.dumps({"missing": 2}),
        "where": "images",
    }
    console.redis.hset(PROGRESS, mapping=progress)
    console.redis.rpush(DIFFERENCES, json.dumps({"why": "missing", "bucket": "images", "key": "<b>"}))
    page = console.browser().get("/actions").text
    assert "under way" in page
    assert "images/&lt;b&gt;" in page
    console.redis.hset(PROGRESS, "ended_at", 61.0)
    page = console.browser().get("/actions").text
    assert "took 60 s" in page
    assert "of which nothing was enqueued" in page


def test_an_object_is_processed_again(console: Console) -> None:
    name = "line\r\nbreak & more.jpg"
    console.press(console.browser(), "process", bucket="images", object=name)
    assert console.waiting() == [f"images/{name}"]


def test_releasing_an_object_forgets_its_verdict_and_tries_it_anew(console: Console) -> None:
    console.faces.put(rejected("images", "a.jpg", "quarantined", "It ended its process."))
    done = console.press(console.browser(), "release", bucket="images", object="a.jpg")
    assert console.faces.records == {}
    assert console.waiting() == ["images/a.jpg"]
    assert "tries it anew" in done.text


def test_one_failed_job_a_group_or_all_are_put_back(console: Console) -> None:
    for number in range(3):
        console.fail(f"{number}.jpg", f"a-{number}", f"ValueError: bad number {number}")
    console.fail("b.jpg", "b-1", "KeyError: 'x'")
    console.fail("c.jpg", "c-1", "OSError: gone")
    assert "back on its queue" in console.do("retry", job_id="b-1")["done"]
    reason = console.program().get("/trouble").get_json()["failed"]["groups"][0]["reason"]
    assert console.do("retry-group", reason=reason)["done"].startswith("3 jobs")
    assert sorted(console.waiting()) == ["images/0.jpg", "images/1.jpg", "images/2.jpg", "images/b.jpg"]
    assert console.do("retry-all")["done"].startswith("1 failed job ")
    assert "images/c.jpg" in console.waiting()


def test_a_job_that_did_not_fail_is_refused_with_the_webhooks_own_words(console: Console) -> None:
    answer = console.program().post("/do/retry", json={"job_id": "nobody"})
    assert answer.status_code == 404
    assert "There is no failed job nobody" in answer.get_json()["error"]
    assert console.audited() == [("asked to retry", "nobody"), ("failed to retry", "nobody")]


def test_a_reason_or_every_rejection_is_released(console: Console) -> None:
    console.faces.put(*(rejected("images", f"{n}.gif", "truncated", "Cut off.") for n in range(250)))
    console.faces.put(rejected("images", "big.png", "too_many_pixels", "Too big."), record("images", "fine.jpg"))
    answer = console.do("release-group", reason_code="truncated")
    assert answer["done"].startswith("250 objects released")
    assert answer["more"] is None
    assert len(console.waiting()) == 250
    assert console.do("release-all")["done"].startswith("1 object ")
    assert [one["key"] for one in console.faces.records.values()] == ["fine.jpg"]


def test_what_takes_longer_than_a_page_may_is_done_in_parts(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "LONGEST", -1)
    monkeypatch.setattr(actions, "RELEASED_AT_ONCE", 10)
    console.faces.put(*(rejected("images", f"{n}.gif", "truncated", "Cut off.") for n in range(25)))
    answer = console.do("release-all")
    assert answer["done"] == "10 objects released, to be tried anew; more are left."
    rounds = 1
    while answer["more"] is not None:
        answer = console.do("release-all", **answer["more"])
        rounds += 1
    assert rounds == 3
    assert len(console.waiting()) == 25


def test_the_models_are_switched_and_dropped_where_that_is_safe(console: Console) -> None:
    console.faces.models.append({"model_id": "old", "points": 5, "items": 2, "in_use": False, "read": False})
    console.do("switch-readers")
    assert console.faces.switched
    answer = console.program().post("/do/drop-model", json={"model_id": "dlib-1"})
    assert (answer.status_code, answer.get_json()["error"]) == (409, "The model dlib-1 is in use.")
    assert console.do("drop-model", model_id="old")["status"] == "success"
    assert [model["model_id"] for model in console.faces.models] == ["dlib-1"]


def test_a_bucket_is_forgotten_only_when_it_is_gone_or_none_of_ours(console: Console) -> None:
    console.faces.put(record("images", "a.jpg"), record("retired", "b.jpg"), record("retired", "c.jpg"))
    answer = console.program().post("/do/forget", json={"bucket": "images"})
    assert answer.status_code == 409
    assert console.do("forget", bucket="retired")["done"] == "2 objects of retired and 2 faces forgotten."
    assert [one["key"] for one in console.faces.records.values()] == ["a.jpg"]


def test_while_the_store_is_away_no_bucket_of_ours_counts_as_gone(console: Console) -> None:
    console.faces.put(record("images", "a.jpg"))
    console.bucket.away = True
    assert console.program().post("/do/forget", json={"bucket": "images"}).status_code == 503
    assert len(console.faces.records) == 1


@pytest.mark.parametrize("given", [{}, {"bucket": "images"}, {"bucket": "images", "object": ""}])
def test_an_action_that_is_not_told_on_what_does_nothing(console: Console, given: dict[str, str]) -> None:
    answer = console.program().post("/do/release", json=given)
    assert answer.status_code == 400
    assert "object" in answer.get_json()["error"]
    assert console.audited() == []


def test_there_are_no_other_actions(console: Console) -> None:
    assert console.program().post("/do/shutdown", json={}).status_code == 404
    assert console.browser().get("/do/shutdown").status_code == 404


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b"\xff"])
def test_a_body_that_is_none_is_an_answer_not_an_error_of_ours(console: Console, body: bytes) -> None:
    answer = console.program().post("/do/retry", data=body, content_type="application/json")
    assert answer.status_code == 400


@pytest.mark.parametrize("given", ["", "[]", "{", '"x"', "null"])
def test_a_form_that_was_tampered_with_is_an_answer_not_an_error_of_ours(console: Console, given: str) -> None:
    browser = console.browser()
    csrf = browser.get("/do/pause").text.partition('name="csrf" value="')[2].partition('"')[0]
    answer = browser.post("/do/retry", data={"csrf": csrf, "given": given})
    assert answer.status_code == 400
