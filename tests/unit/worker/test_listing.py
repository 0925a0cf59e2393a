"""What is made of a listing, also of those that other stores than MinIO send."""

from typing import Any

import pytest
import urllib3
from minio.error import MinioException

from app.worker.listing import Client, Listed

LISTING = """<?xml version="1.0"?><ListBucketResult {namespace}><Name>images</Name>{members}
<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;e1&quot;</ETag>
<Size>7</Size><Owner><ID>Size</ID></Owner></Contents></ListBucketResult>"""

MORE, LAST = "<IsTruncated>true</IsTruncated>", "<IsTruncated>false</IsTruncated>"
TOKEN = "<NextContinuationToken>its place</NextContinuationToken>"


def listing(key: str = "a.jpg", members: str = LAST, namespace: str = "") -> str:
    return LISTING.format(key=key, members=members, namespace=namespace)


class Canned(Client):
    """A client of a store that sends these answers, one after the other."""

    def __init__(self, *answers: str) -> None:
        self._answers = iter(answers)
        self.queries: list[dict[str, str]] = []

    def _execute(self, *_: Any, query_params: Any = None, **__: Any) -> urllib3.BaseHTTPResponse:
        self.queries.append(query_params)
        return urllib3.HTTPResponse(next(self._answers).encode())


def test_it_goes_on_where_the_store_says() -> None:
    client = Canned(listing("a.jpg", MORE + TOKEN), listing("b.jpg"))
    assert list(client.pages("images", "Z.jpg", 2)) == [[Listed("a.jpg", "e1", 7)], [Listed("b.jpg", "e1", 7)]]
    first, second = client.queries
    assert (first["start-after"], first["max-keys"]) == ("Z.jpg", "2")
    assert second["continuation-token"] == "its place"
    assert "start-after" not in second


def test_it_goes_on_after_the_last_object_where_the_store_does_not_say() -> None:
    client = Canned(listing("a.jpg", MORE), listing("b.jpg"))
    assert [listed.key for page in client.pages("images", None, 1000) for listed in page] == ["a.jpg", "b.jpg"]
    assert [query.get("start-after") for query in client.queries] == [None, "a.jpg"]


@pytest.mark.parametrize("namespace", ["", 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
def test_keys_are_decoded_where_they_are_encoded(namespace: str) -> None:
    encoded = listing("a+b%0A%2B", f"{LAST}<EncodingType>url</EncodingType>", namespace)
    assert list(Canned(encoded).pages("images", None, 1)) == [[Listed("a b\n+", "e1", 7)]]
    assert list(Canned(listing("a+b%0A", LAST, namespace)).pages("images", None, 1)) == [[Listed("a+b%0A", "e1", 7)]]


def test_an_empty_page_is_passed_over() -> None:
    empty = f"<ListBucketResult>{MORE}{TOKEN}</ListBucketResult>"
    assert list(Canned(empty, listing()).pages("images", None, 1)) == [[Listed("a.jpg", "e1", 7)]]
    assert list(Canned(f"<ListBucketResult>{LAST}</ListBucketResult>").pages("images", None, 1)) == []


@pytest.mark.parametrize(
    "answer",
    [
        "<html>",
        "<html></html>",
        listing().replace("<Size>7", "<Size>"),
        f"<ListBucketResult>{MORE}</ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_not_taken_for_an_empty_bucket(answer: str) -> None:
    with pytest.raises(MinioException, match="no listing"):
        list(Canned(answer).pages("images", None, 1))
