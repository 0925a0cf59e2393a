"""The console in a real Chromium, over a real pipeline: what an operator does in it, and who else can use it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests import media
from tests.chromium import NARROW, WIDE, Browser, chromium
from tests.fixtures import Pipeline, eventually, standing
from tests.unit.console.standin import fail

#: The picture that is shown: skimage's astronaut, in the public domain.
ASTRONAUT = "crawl/2026-11-25/astronaut.png"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Iterator[Pipeline]:
    """A stack of its own, for its parts are stopped; with a picture, a video, and what is neither."""
    with standing(tmp_path_factory.mktemp("stack")) as found:
        found.put("images", ASTRONAUT, photos["astronaut.png"])
        found.put("images", "crawl/2026-11-25/not a photo.jpg", b"This only calls itself a photo.")
        one, other = media.portrait(photos), media.stranger(photos).resize((150, 180))
        frames = (
            media.scene(
                (480, 270), *([(one, 20 + n, 20)] if n < 40 else []), *([(other, 300 - n, 40)] if n > 20 else [])
            )
            for n in range(60)
        )
        found.put("videos", "crawl/2026-11-25/walk past.mp4", media.video(frames))
        for key in (ASTRONAUT, "crawl/2026-11-25/not a photo.jpg"):
            found.indexed("images", key)
        found.indexed("videos", "crawl/2026-11-25/walk past.mp4")
        yield found


@pytest.fixture(scope="module")
def window(own: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(str(own.outputs["console_url"]), tmp_path_factory.mktemp("chromium")) as browser:
        browser.sign_in(str(own.outputs["console_token"]))
        browser.one(".verdict")
        yield browser


@pytest.fixture
def browser(own: Pipeline, window: Browser) -> Iterator[Browser]:
    """A window that is signed in; nothing may have failed in it, or been forbidden."""
    window.go("/")
    window.complaints()
    yield window
    assert window.complaints() == []


def photo(photos: dict[str, bytes]) -> bytes:
    return media.jpeg(media.portrait(photos))


def page_of(bucket: str, key: str) -> str:
    return f"/object?bucket={bucket}&object={quote(key, safe='')}"


def test_signing_in_takes_the_token_and_leads_to_where_one_was_going(own: Pipeline, window: Browser) -> None:
    window.press("Sign out")
    window.go("/trouble")
    assert "The operator's token" in window.text()
    assert "Rejected" not in window.text()
    window.one("#token").send_keys("a wrong token", Keys.ENTER)
    window.shows("This is not the operator's token")
    assert window.barriers() == []
    window.one("#token").send_keys(str(own.outputs["console_token"]), Keys.ENTER)
    window.shows("Rejected objects")


def test_an_upload_appears_by_itself_with_its_boxes_where_the_faces_are(
    own: Pipeline, browser: Browser, photos: dict[str, bytes]
) -> None:
    before = own.call("GET", "gpu_worker/items/count")[1]["items"]
    browser.shows(f"{before} objects")
    found = own.indexed("images", "browser/new.jpg", own.put("images", "browser/new.jpg", photo(photos)))
    browser.shows(f"{before + 1} objects")  # nobody loaded the page again
    browser.go(page_of("images", "browser/new.jpg"))
    picture, box = browser.one("svg image").rect, browser.one("svg g.face rect").rect
    scale = picture["width"] / found["item"]["width"]
    left, top, right, bottom = found["faces"][0]["box"]
    seen = [box["x"] - picture["x"], box["y"] - picture["y"], box["width"], box["height"]]
    assert seen == pytest.approx([left * scale, top * scale, (right - left) * scale, (bottom - top) * scale], abs=3)
    loaded = "const i = new Image(); i.src = document.querySelector('image').getAttribute('href'); return i.decode()"
    assert browser.run(f"{loaded}.then(() => i.naturalWidth)") == found["item"]["width"]


def test_a_broken_file_is_under_trouble_until_it_is_mended(
    own: Pipeline, browser: Browser, photos: dict[str, bytes]
) -> None:
    key = "browser/broken.jpg"
    own.indexed("images", key, own.put("images", key, photo(photos)[:2000]))
    browser.go("/trouble")
    browser.shows(key)
    browser.driver.find_element(By.PARTIAL_LINK_TEXT, key).click()
    browser.shows("rejected")
    own.indexed("images", key, own.put("images", key, photo(photos)))
    browser.shows(r"Status\s+indexed")
    browser.go("/trouble")
    assert key not in browser.text()


def test_a_failed_job_is_retried_with_a_click_that_asks_once(
    own: Pipeline, browser: Browser, photos: dict[str, bytes]
) -> None:
    key = "browser/failed.jpg"
    with own_queue_paused(own):
        own.put("images", key, photo(photos))
        time.sleep(1)
        own.redis.delete("rq:queue:facial_recognition")  # what was lost is in the failed job alone
        fail(own.redis, key, "failed-job", "RuntimeError: a bug that is mended now")
    browser.go("/trouble")
    browser.shows("a bug that is mended now")
    browser.press("Retry all of these")
    browser.shows("Put every failed job with this reason back")
    assert own.call("GET", "webhook/job/failed-job")[1]["status"] == "failed"
    browser.press("Retry all of these", "main")
    browser.shows("1 job of this group put back")
    own.indexed("images", key)
    assert "a bug that is mended now" not in browser.text()


@contextmanager
def own_queue_paused(own: Pipeline) -> Iterator[None]:
    """Workers rest meanwhile."""
    own.redis.set("rq:suspended", 1)
    time.sleep(2.5)
    try:
        yield
    finally:
        own.redis.delete("rq:suspended")


def test_workers_are_paused_and_go_on(own: Pipeline, browser: Browser, photos: dict[str, bytes]) -> None:
    browser.go("/actions")
    browser.press("Pause the workers")
    browser.shows("Pause the workers\\?")
    browser.press("Pause the workers", "main")
    browser.shows("The workers are paused")
    time.sleep(2.5)
    own.put("images", "browser/paused.jpg", photo(photos))
    browser.go("/")
    browser.shows("Paused")
    browser.shows("1 job waiting")
    browser.go("/actions")
    browser.press("Resume")
    browser.press("Resume", "main")
    browser.shows("The workers go on")
    own.indexed("images", "browser/paused.jpg")
    browser.go("/audit")
    browser.shows("asked to resume")


def test_a_comparison_shows_its_result(own: Pipeline, browser: Browser) -> None:
    own.idle()
    browser.go("/actions")
    browser.press("Dry run")
    browser.press("Dry run", "main")
    browser.shows("A dry run of buckets and index waits for a worker|A comparison is under way")
    browser.go("/actions")
    browser.shows(r"The last dry run began .* and took")
    browser.shows("Differences: none")


@pytest.mark.parametrize(
    ("process", "red"),
    [
        ("gpu-worker", "Face service"),
        ("webhook", "Events"),
        ("minio", "Bucket"),
        ("redis", "Queue"),
        ("worker-1", None),
    ],
)
def test_with_each_service_stopped_in_turn_its_box_is_red_and_the_others_stand(
    own: Pipeline, browser: Browser, process: str, red: str | None
) -> None:
    """Stopped as by SIGSTOP: it takes connections and never answers, which is worse than to be away."""
    stopped = own.stack.processes[process]
    stopped.signal(signal.SIGSTOP)
    try:
        for path in ("/", page_of("images", ASTRONAUT), "/trouble", "/actions"):
            assert min(first_byte(browser, path) for _ in range(2)) < 2000, path  # twice, for a busy machine
            assert "That did not work" not in browser.text(), path
        states = states_of(browser)
        assert len(states) == 6
        if red:
            assert states[red] == "red"
        assert sum(state != "red" for state in states.values()) >= 3  # without Redis the webhook takes no events
    finally:
        stopped.signal(signal.SIGCONT)
    browser.complaints()  # pictures of a store that is away
    eventually(lambda: "red" not in states_of(browser).values(), "all boxes well again", 90)


def first_byte(browser: Browser, path: str) -> float:
    """Milliseconds to the first byte of a page."""
    browser.go(path)
    return float(browser.run("return performance.getEntriesByType('navigation')[0].responseStart"))


def states_of(browser: Browser) -> dict[str, str]:
    """Green, amber or red, by part."""
    browser.go("/")
    boxes = [(box.find_element(By.TAG_NAME, "h2").text, box.get_attribute("class")) for box in browser.all(".box")]
    return {name: str(state).split()[-1] for name, state in boxes}


PAGES = {
    "overview": "/",
    "objects": "/objects",
    "object": page_of("images", ASTRONAUT),
    "video": page_of("videos", "crawl/2026-11-25/walk past.mp4"),
    "trouble": "/trouble",
    "actions": "/actions",
    "question": "/do/release?bucket=images&object=a.jpg&back=/",
    "audit": "/audit",
    "error": "/object",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_keeps_nobody_out(own: Pipeline, window: Browser, name: str) -> None:
    window.go(PAGES[name])
    for scheme in ("light", "dark"):
        window.colours(scheme)
        assert window.barriers() == [], scheme
    window.resize(NARROW)
    assert window.barriers() == []
    assert window.run("return document.scrollingElement.scrollWidth") <= NARROW[0]
    window.resize(WIDE)
    window.colours("light")
    window.picture(name)
    window.complaints()


def test_a_keyboard_reaches_everything(own: Pipeline, browser: Browser) -> None:
    def focused() -> str:
        return str(browser.run("return document.activeElement.textContent.trim()"))

    body = browser.one("body")
    body.send_keys(Keys.TAB)
    assert focused() == "Skip to the content"
    reached = []
    for _ in range(8):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(focused())
    assert reached[:7] == ["LookingGlass", "Overview", "Objects", "Trouble", "Actions", "Audit", "Sign out"]
    outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    browser.go("/actions")
    [pause] = [link for link in browser.all("main a") if link.text == "Pause the workers"]
    pause.send_keys(Keys.ENTER)
    browser.shows("Pause the workers\\?")


def test_without_javascript_everything_can_be_done(own: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("no-javascript")
    with chromium(str(own.outputs["console_url"]), directory, javascript=False) as browser:
        browser.sign_in(str(own.outputs["console_token"]))
        for path in PAGES.values():
            browser.go(path)
            assert browser.all("main")
        browser.go("/actions")
        browser.press("Pause the workers")
        browser.press("Pause the workers", "main")
        browser.shows("The workers are paused")
        browser.press("Resume")
        browser.press("Resume", "main")
        browser.shows("The workers go on")
        browser.press("Sign out")
        browser.shows("The operator's token")
