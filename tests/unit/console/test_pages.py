"""What the pages show, to whom, and what they do when something is away."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from werkzeug.test import TestResponse

from app.common.text import visible
from app.console.pages import create_app
from app.console.parts import Parts
from app.console.settings import ConsoleSettings
from app.webhook.intake import HINTS_SINCE
from app.webhook.queueing import DEAD_LETTERS
from tests.faults.corpus import names
from tests.unit.console import standin
from tests.unit.console.conftest import Console, settings
from tests.unit.console.standin import record, rejected

PAGES = ("/", "/objects", "/object?bucket=images&object=a.jpg", "/trouble", "/actions", "/audit", "/do/pause")

#: Names that would be markup, a template, a formula, a script or another direction of writing.
HOSTILE = [*names(), '"><script>alert(1)</script>', "'><svg/onload=alert(1)>", "</title><b>x", "=1+1|'x'!A0"]


class Markup(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def boxes(console: Console) -> dict[str, str]:
    """The state of each part, as the first page draws it, made within two seconds."""
    began = time.monotonic()
    page = console.browser().get("/")
    assert time.monotonic() - began < 2
    assert page.status_code == 200
    return {name: state for state, name in re.findall(r'<li class="box (\w+)">\s*<h2>(.*?)</h2>', page.text)}


def test_a_pipeline_that_is_well_is_green_from_end_to_end(console: Console) -> None:
    standin.worker(console.redis, "w1")
    console.faces.put(record("images", "a.jpg"))
    assert set(boxes(console).values()) == {"green"}
    page = Markup(console.browser().get("/").text).text
    assert "All is well." in page
    assert "Ready: dlib on cpu." in page
    assert "1 object, 1 face" in page


def test_what_each_worker_does_and_for_how_long_is_shown(console: Console) -> None:
    console.enqueue("clip.mp4", "job-1", bucket="videos")
    standin.worker(console.redis, "w1", "job-1")
    standin.worker(console.redis, "w2", last_heartbeat="2026-01-01T00:00:00.000000Z")
    found = console.program().get("/").get_json()
    busy, silent = found["workers"]
    assert (busy["state"], busy["job"]["what"]) == ("busy", "s3:ObjectCreated:Put videos/clip.mp4")
    assert silent["state"] == "silent"
    assert found["boxes"][3] == {"name": "Workers", "state": "amber", "sentence": "1 busy, 1 silent."}


def test_a_job_that_waits_too_long_and_one_that_failed_are_amber(console: Console) -> None:
    standin.worker(console.redis, "w1")
    console.enqueue("a.jpg", "job-1")
    assert boxes(console)["Queue"] == "green"
    console.redis.hset("rq:job:job-1", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    assert boxes(console)["Queue"] == "amber"
    console.redis.flushall()
    standin.worker(console.redis, "w1")
    console.fail("b.jpg", "job-2", "RuntimeError: broken")
    assert boxes(console)["Queue"] == "amber"


def test_events_that_minio_holds_back_are_red(console: Console) -> None:
    console.redis.set(HINTS_SINCE, int(time.time()) - 300)
    assert boxes(console)["Events"] == "red"


def test_a_part_that_is_away_makes_its_box_red_and_leaves_the_rest(console: Console) -> None:
    standin.worker(console.redis, "w1")
    console.bucket.away = True
    assert [name for name, state in boxes(console).items() if state == "red"] == ["Bucket"]
    console.bucket.away = False
    console.faces.ready = False
    assert [name for name, state in boxes(console).items() if state == "red"] == ["Face service", "Index"]


@pytest.mark.parametrize(
    ("setting", "red"),
    [
        ("webhook_url", ["Events"]),
        ("gpu_worker_url", ["Face service", "Index"]),
        ("redis_url", ["Queue", "Workers"]),
        ("minio_endpoint", ["Bucket"]),
    ],
)
def test_a_part_that_takes_connections_and_never_answers_costs_no_page_two_seconds(
    console: Console, setting: str, red: list[str]
) -> None:
    standin.worker(console.redis, "w1")
    with standin.silent() as nowhere:
        address = nowhere.replace("http://", "redis://") if setting == "redis_url" else nowhere
        wanted = settings(**{**console.parts.settings.model_dump(), "console_token": standin.TOKEN, setting: address})
        with closing(Parts(wanted)) as parts:
            if setting != "minio_endpoint":
                parts.bucket = console.bucket  # type: ignore[assignment]
            app = create_app(wanted, parts)

            def get(path: str) -> tuple[float, TestResponse]:
                began = time.monotonic()
                answer = app.test_client().get(path, headers=standin.BEARER)
                return time.monotonic() - began, answer

            with ThreadPoolExecutor() as pool:
                answers = list(pool.map(get, ("/", "/object?bucket=images&object=a.jpg", "/trouble", "/actions")))
    assert [answer.status_code for _, answer in answers] == [200] * 4
    assert max(seconds for seconds, _ in answers) < 2
    found = answers[0][1].get_json()
    assert [box["name"] for box in found["boxes"] if box["state"] == "red"] == red


def test_the_time_until_a_backlog_is_done_is_measured(console: Console) -> None:
    console.enqueue("a.jpg", "job-1")
    backlog = console.program().get("/").get_json()["backlog"]
    assert (backlog["jobs"], backlog["outlook"]) == (1, "measuring")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_on_every_page(console: Console, name: str) -> None:
    console.faces.put(rejected("images", name, "damaged", f"The picture {name} is damaged.", note=name))
    console.bucket.objects["images", name] = b"x"
    console.fail(name, "job-1", f"RuntimeError: {name}")
    dead = {"at": "2026-11-01T10:00:00+00:00", "reason": name, "record": name}
    console.redis.lpush(DEAD_LETTERS, json.dumps(dead))
    console.enqueue(name, "job-2")
    standin.worker(console.redis, "w1", "job-2")
    browser = console.browser()
    console.press(browser, "process", bucket="images", object=name)
    shown = visible(name)
    where = {"bucket": "images", "object": name}
    for path, query in (
        ("/", {}),
        ("/objects", {}),
        ("/objects", {"bucket": "images", "prefix": name[:5]}),
        ("/objects", {"prefix": name, "reason_code": name}),
        ("/object", where),
        ("/trouble", {}),
        ("/audit", {}),
        ("/do/release", {**where, "back": "/"}),
    ):
        answer = browser.get(path, query_string=query)
        assert answer.status_code == 200, path
        page = Markup(answer.text)
        assert_no_markup_of_others(page)
        if "reason_code" not in query:
            assert shown in unescape(page.text) or shown in page.text, path
    [link] = {
        attributes["href"]
        for tag, attributes in Markup(browser.get("/objects").text).tags
        if tag == "a" and (attributes.get("href") or "").startswith("/object?")
    }
    assert parse_qs(urlsplit(link or "").query, keep_blank_values=True)["object"] == [name]
    csv = browser.get("/trouble.csv").text
    assert not re.search(r"(^|,)\"?[=+@]", csv, re.M)


def assert_no_markup_of_others(page: Markup) -> None:
    """Nothing that a name could have brought: no script of its own, no handler, no style, no link elsewhere."""
    for tag, attributes in page.tags:
        assert tag not in ("b", "object", "iframe", "embed", "base")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        if tag == "script":
            assert attributes == {"src": "/static/console.js", "defer": None}
        for name in ("href", "src", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("/", "#")), target
            assert not (target or "").startswith("//")


def test_pages_hold_no_inline_script_or_style_which_the_policy_forbids(console: Console) -> None:
    console.faces.put(record("images", "a.jpg"))
    console.bucket.objects["images", "a.jpg"] = b"x"
    for path in PAGES:
        answer = console.browser().get(path)
        assert answer.status_code == 200, path
        assert_no_markup_of_others(Markup(answer.text))
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"


def test_an_object_is_shown_with_its_boxes_its_steps_and_the_time_it_took(console: Console) -> None:
    console.faces.put(record("images", "a.jpg", judged_by={"MIN_SCORE": 0.5}))
    console.bucket.objects["images", "a.jpg"] = b"x"
    page = console.browser().get("/object?bucket=images&object=a.jpg").text
    assert '<rect x="10.0" y="20.0" width="50.0" height="50.0">' in page
    for text in ("0.99", "2.5 s", "120 ms", "MIN_SCORE", "dlib-1"):
        assert text in page


def test_boxes_are_not_drawn_on_another_version_of_the_picture(console: Console) -> None:
    console.faces.put(record("images", "a.jpg", etag="e0"))
    console.bucket.objects["images", "a.jpg"] = b"x"
    page = console.browser().get("/object?bucket=images&object=a.jpg").text
    assert "<image" not in page
    assert "the bucket holds another version" in page


def test_a_videos_people_stand_on_a_line_of_time(console: Console) -> None:
    console.faces.put(record("videos", "a.mp4", kind="video", duration_s=10.0, width=None))
    console.faces.faces[0] |= {"first_seen_s": 2.0, "last_seen_s": 7.0, "best_seen_s": 4.0, "frames_seen": 5}
    page = console.browser().get("/object?bucket=videos&object=a.mp4").text
    assert '<rect class="seen" x="200.0" width="500.0"' in page
    assert "4.0 s" in page
    assert "<image" not in page


def picture(width: int, height: int, **saved: object) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "JPEG", **saved)
    return out.getvalue()


def test_a_picture_is_reduced_turned_upright_never_kept_and_every_look_is_audited(console: Console) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    console.faces.put(record("images", "a.jpg"))
    console.bucket.objects["images", "a.jpg"] = picture(3000, 1000, exif=turned)
    answer = console.browser().get("/picture?bucket=images&object=a.jpg")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    shown = Image.open(BytesIO(answer.data))
    assert shown.format == "JPEG"
    assert shown.height == 1280
    assert shown.width < 500
    assert not shown.getexif()
    assert console.audited()[-1] == ("looked at a picture", "images/a.jpg")


@pytest.mark.parametrize(
    ("held", "data", "status"),
    [
        (record("images", "other.jpg"), b"x", 404),
        (record("images", "a.jpg", etag="e0"), b"x", 404),
        (record("images", "a.jpg"), b"no picture", 422),
    ],
)
def test_what_is_not_the_picture_that_was_indexed_is_not_shown(
    console: Console, held: dict[str, object], data: bytes, status: int
) -> None:
    console.faces.put(held)
    console.bucket.objects["images", "a.jpg"] = data
    assert console.browser().get("/picture?bucket=images&object=a.jpg").status_code == status


def test_objects_are_listed_by_status_reason_model_time_and_beginning(console: Console) -> None:
    console.faces.put(record("images", "2024/a.jpg"), record("images", "b.jpg", model_id="old"))
    console.faces.put(rejected("videos", "c.mp4", "damaged", "Damaged.", indexed_at="2026-11-20T00:00:00+00:00"))
    console.bucket.objects |= {("images", "2024/a.jpg"): b"x", ("images", "2024/new.jpg"): b"x"}

    def listed(**wanted: str) -> list[str]:
        return [one["key"] for one in console.program().get("/objects", query_string=wanted).get_json()["objects"]]

    assert sorted(listed()) == ["2024/a.jpg", "b.jpg", "c.mp4"]
    assert listed(status="rejected") == listed(reason_code="damaged") == ["c.mp4"]
    assert listed(model_id="old") == ["b.jpg"]
    assert listed(prefix="2024/") == ["2024/a.jpg"]
    assert listed(since="2026-11-10T00:00") == ["c.mp4"]
    assert sorted(listed(until="2026-11-10T00:00")) == ["2024/a.jpg", "b.jpg"]
    # By the bucket's own listing, and so with what the index does not know.
    assert listed(bucket="images", prefix="2024/") == ["2024/a.jpg", "2024/new.jpg"]


def test_every_object_is_on_one_page_of_the_list(console: Console) -> None:
    console.faces.put(*(record("images", f"{number}.jpg") for number in range(120)))
    seen: list[str] = []
    path: str | None = "/objects"
    while path:
        page = Markup(console.browser().get(path).text).tags
        links = [attributes for tag, attributes in page if tag == "a"]
        seen += [str(a["href"]) for a in links if str(a["href"]).startswith("/object?")]
        path = next((str(a["href"]) for a in links if a.get("rel") == "next"), None)
    assert len(seen) == len(set(seen)) == 120


def test_trouble_is_grouped_by_reason_with_numbers_and_examples(console: Console) -> None:
    for number in range(7):
        console.fail(
            f"{number}.jpg", f"job-{number}", f"ValueError: cannot read images/{number}.jpg at {number * 10}"
        )
    console.fail("x.mp4", "job-x", "KeyError: 'codec'", bucket="videos")
    console.faces.put(*(rejected("images", f"{n}.gif", "truncated", "The GIF is truncated.") for n in range(3)))
    found = console.program().get("/trouble").get_json()
    assert [group["count"] for group in found["failed"]["groups"]] == [7, 1]
    assert len(found["failed"]["groups"][0]["examples"]) == 5
    assert found["rejected"]["groups"][0]["reason"] == "truncated"
    assert found["rejected"]["groups"][0]["count"] == 3
    lines = console.browser().get("/trouble.csv").text.splitlines()
    assert len(lines) == 1 + 8 + 3


def test_a_table_of_troubles_that_is_not_whole_says_so(console: Console) -> None:
    console.fail("a.jpg", "job-1", "ValueError: no")
    console.parts.faces.each[0].url = "http://127.0.0.1:9"
    table = console.browser().get("/trouble.csv").text
    assert "failed,ValueError: no" in table
    assert "problem,,,,,The face service at http://127.0.0.1:9 does not answer" in table


# Who is let in.


def every_page(console: Console) -> list[tuple[str, str]]:
    rules = console.app.url_map.iter_rules()
    return [
        (method, rule.rule.replace("<action>", "pause"))
        for rule in rules
        for method in (rule.methods or set()) - {"OPTIONS"}
        if rule.endpoint != "static"
    ]


def test_without_a_sign_in_there_is_nothing_but_the_sign_in(console: Console) -> None:
    open_to_all = {"/health", "/health/live", "/sign-in"}
    anybody = console.app.test_client()
    pages = every_page(console)
    assert len(pages) > 15
    for method, path in [*pages, ("GET", "/no-such-page"), ("GET", "/static/../app.py")]:
        answer = anybody.open(path, method=method)
        if path not in open_to_all:
            assert answer.status_code in (302, 404), path
            assert answer.status_code == 404 or urlsplit(answer.location).path == "/sign-in"
            assert answer.headers["Content-Security-Policy"]
        wrong = anybody.open(path, method=method, headers={"Authorization": "Bearer wrong"})
        if path not in open_to_all:
            assert wrong.status_code in (401, 404)
    assert not console.redis.exists("rq:suspended")
    assert console.audited() == []


def test_a_session_ends_after_its_time_at_the_sign_out_and_with_a_new_token(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = console.browser()
    [cookie] = browser.post("/sign-in", data={"token": standin.TOKEN}).headers.getlist("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Expires=" in cookie
    assert browser.get("/").status_code == 200
    later = time.time() + 8 * 3600 + 1
    with monkeypatch.context() as patched:
        patched.setattr("app.console.session.time.time", lambda: later)
        assert browser.get("/").status_code == 302
    browser.post("/sign-out", data={"csrf": csrf(browser.get("/").text)})
    assert browser.get("/").status_code == 302
    browser = console.browser()
    renewed = settings(console_token="another token of the operator")
    other = create_app(renewed, console.parts).test_client()
    other.set_cookie("console", browser.get_cookie("console").value)  # type: ignore[union-attr]
    assert other.get("/").status_code == 302


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def test_behind_https_the_cookie_goes_over_nothing_else(console: Console) -> None:
    app = create_app(settings(console_https=True), console.parts)
    answer = app.test_client().post("/sign-in", data={"token": standin.TOKEN}, base_url="https://console")
    [cookie] = answer.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-console=")
    assert "Secure" in cookie


def test_a_form_of_another_site_does_nothing(console: Console) -> None:
    browser = console.browser()
    for given in ({}, {"csrf": "guessed"}, {"csrf": ""}, {"csrf": "é"}):
        assert browser.post("/do/pause", data={"given": "{}", **given}).status_code == 400
    assert browser.post("/do/pause", json={}).status_code == 400
    assert browser.post("/sign-out").status_code == 400
    assert not console.redis.exists("rq:suspended")


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:x", "/\n/x"]
)
def test_signing_in_leads_nowhere_else(console: Console, path: str) -> None:
    client = console.app.test_client()
    answer = client.post("/sign-in", query_string={"next": path}, data={"token": standin.TOKEN})
    assert answer.location == "/"


def test_who_guesses_tokens_is_soon_made_to_wait(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    client = console.app.test_client()
    guesses = [client.post("/sign-in", data={"token": f"guess {n}"}).status_code for n in range(25)]
    assert guesses == [401] * 20 + [429] * 5
    assert client.post("/sign-in", data={"token": standin.TOKEN}).status_code == 429
    later = time.monotonic() + 61
    monkeypatch.setattr("app.console.session.time.monotonic", lambda: later)
    assert client.post("/sign-in", data={"token": standin.TOKEN}).status_code == 303


@pytest.mark.parametrize("token", [None, "", "short"])
def test_it_does_not_start_without_a_token_worth_its_name(token: str | None) -> None:
    with pytest.raises(ValueError, match="CONSOLE_TOKEN"):
        ConsoleSettings.model_validate({"console_token": token} if token is not None else {})


def test_while_redis_is_away_nobody_signs_in_unseen(console: Console) -> None:
    wanted = settings(redis_url="redis://127.0.0.1:9/0")
    with closing(Parts(wanted)) as parts:
        answer = create_app(wanted, parts).test_client().post("/sign-in", data={"token": standin.TOKEN})
    assert answer.status_code == 503
    assert not answer.headers.getlist("Set-Cookie")


def test_an_error_is_a_page_for_people_and_json_for_programs(console: Console) -> None:
    answer = console.browser().get("/object")
    assert answer.status_code == 400
    assert "bucket and object say which one" in answer.text
    said = console.program().get("/object").get_json()
    assert (said["status"], said["code"]) == ("error", "bad_request")
    assert console.program().get("/nowhere").get_json()["code"] == "not_found"


def test_what_it_answers_is_described(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = console.program().get("/openapi.json").get_json()["paths"]
    assert {"/", "/objects", "/do/{action}", "/trouble.csv"} <= set(paths)
