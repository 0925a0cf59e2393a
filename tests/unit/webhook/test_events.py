"""What the records of an S3 event document say."""

import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.webhook.events import Event, MalformedDocumentError, parse, records

#: Any JSON at all.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
#: What is nearly a record: each part right, or anything.
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "eventName": st.just("s3:ObjectCreated:Put") | ANYTHING,
        "s3": ANYTHING
        | st.fixed_dictionaries(
            {},
            optional={
                "bucket": st.just({"name": "images"}) | ANYTHING,
                "object": ANYTHING
                | st.fixed_dictionaries(
                    {"key": st.text() | ANYTHING},
                    optional={
                        name: st.text() | ANYTHING
                        for name in ("sequencer", "size", "versionId", "contentType", "userMetadata")
                    },
                ),
            },
        ),
    },
)


def record(name: str = "s3:ObjectCreated:Put", key: str = "a.jpg", **more: Any) -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "images"}, "object": {"key": key, **more}}}


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("a+b.jpg", "a b.jpg"),
        ("a%2Bb.jpg", "a+b.jpg"),
        ("a%2Fb%20c.jpg", "a/b c.jpg"),
        ("%C3%BC.jpg", "ü.jpg"),
        ("100%25.jpg", "100%.jpg"),
        ("%F0%9F%98%80", "😀"),
        ("line%0Abreak", "line\nbreak"),
        ("a" * 1024, "a" * 1024),
    ],
)
def test_keys_are_decoded_as_forms_are(encoded: str, key: str) -> None:
    assert parse(record(key=encoded)).key == key


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "text",
        7,
        {},
        {"eventName": "s3:ObjectCreated:Put"},
        {"eventName": 3, "s3": {"bucket": {"name": "images"}, "object": {"key": "a"}}},
        record(key=""),
        record(key="%FF%FE"),
        record(key="\ud800"),
        record(key="a" * 1025),
        record(key="ü" * 513),
        {**record(), "s3": {"bucket": {"name": "images"}}},
        {**record(), "s3": {"bucket": {}, "object": {"key": "a"}}},
        {**record(), "s3": {"bucket": "images", "object": {"key": "a"}}},
        {**record(), "s3": []},
        record(sequencer=12),
    ],
)
def test_a_record_that_can_never_be_processed_says_why(broken: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(broken)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b"{}", b'{"Records": {}}', b"[" * 100_000])
def test_what_is_not_an_event_document_says_what_is_missing(body: bytes) -> None:
    with pytest.raises(MalformedDocumentError, match="body"):
        records(body)


def test_a_redelivered_event_has_the_same_job_and_a_newer_one_another() -> None:
    first = parse(record(sequencer="17A"))
    again = parse(record(sequencer="17A"))
    newer = parse(record(sequencer="17B"))
    removed = parse(record("s3:ObjectRemoved:Delete", sequencer="17A"))
    elsewhere = parse({**record(sequencer="17A"), "s3": {"bucket": {"name": "videos"}, "object": {"key": "a.jpg"}}})
    assert first.job_id == again.job_id
    assert len({event.job_id for event in (first, newer, removed, elsewhere)}) == 4


def test_an_event_without_a_sequencer_is_never_taken_for_another() -> None:
    assert parse(record()).job_id is None


@pytest.mark.parametrize(
    ("name", "created", "removed"),
    [
        ("s3:ObjectCreated:Put", True, False),
        ("ObjectCreated:Put", True, False),
        ("s3:ObjectCreated:CompleteMultipartUpload", True, False),
        ("s3:ObjectCreated:PutTagging", False, False),
        ("s3:ObjectRemoved:Delete", False, True),
        ("s3:ObjectRemoved:DeleteMarkerCreated", False, True),
        ("s3:ObjectAccessed:Get", False, False),
    ],
)
def test_events_create_remove_or_say_nothing(name: str, created: bool, removed: bool) -> None:
    event = parse(record(name))
    assert (event.created, event.removed) == (created, removed)


@pytest.mark.parametrize("name", ["X-Amz-Meta-Priority", "x-amz-meta-priority", "priority"])
def test_an_uploader_may_ask_for_priority(name: str) -> None:
    assert parse(record(userMetadata={name: "High"})).high_priority
    assert not parse(record(userMetadata={name: "low"})).high_priority


@pytest.mark.parametrize("metadata", [None, [], "high", {"priority": None}])
def test_odd_metadata_is_no_reason_to_lose_an_event(metadata: Any) -> None:
    assert not parse(record(userMetadata=metadata)).high_priority


@pytest.mark.parametrize(("said", "taken"), [(7, 7), (None, 0), (-1, 0), ("7", 0), (2**63, 0), ([], 0)])
def test_an_odd_size_is_no_reason_to_lose_an_event(said: Any, taken: int) -> None:
    assert parse(record(size=said)).s3.object.size == taken


@settings(deadline=None)
@given(st.binary() | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_records_or_says_why_not(body: bytes) -> None:
    try:
        assert isinstance(records(body), list)
    except MalformedDocumentError as error:
        assert str(error)


@settings(deadline=None, max_examples=500)
@given(ANYTHING | NEARLY)
def test_any_record_is_an_event_or_says_why_not(record: Any) -> None:
    try:
        event = parse(record)
    except ValueError as error:
        assert str(error)
        return
    assert isinstance(event, Event)
    assert event.key
    assert event.created + event.removed <= 1
    assert event.job_id is None or event.job_id.isalnum()
    assert event.high_priority in (True, False)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_key_survives_its_encoding(key: str) -> None:
    assert parse(record(key=quote_plus(key))).key == key
