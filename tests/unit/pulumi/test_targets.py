"""How our webhook is described to a MinIO that stands already."""

from lookingglass.targets import describe

from infra.contract import DURABLE_TARGET, HINT_TARGET


def test_another_token_shows_in_what_is_compared_and_the_token_does_not() -> None:
    one, other = (describe("http://webhook:5002", "/events", token) for token in ("token-1", "token-2"))
    assert one != other
    assert "token-1" not in str(one)


def test_only_the_durable_target_keeps_events() -> None:
    found = describe("http://webhook:5002", "/events", "token")
    assert found[DURABLE_TARGET]["queue_dir"] == "/events"
    assert found[HINT_TARGET]["queue_dir"] == ""
    assert found[HINT_TARGET]["endpoint"].startswith("http://webhook:5002/webhook/minio?hint&")
