"""A real Chromium, Debian's, for tests of pages; and where the pictures of them go."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.fixtures import eventually

ROOT = Path(__file__).parents[1]

#: Where screenshots go; CI keeps what is there.
SCREENSHOTS = Path(os.environ.get("SCREENSHOT_DIR", ROOT / ".cache" / "screenshots"))

#: Width and height in pixels: a desk's, and the narrowest that is read without scrolling sideways (WCAG 1.4.10).
WIDE = (1280, 900)
NARROW = (320, 800)


class Browser:
    """A window, and what a person does in it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def go(self, path: str) -> None:
        """Open a page of the console."""
        self.driver.get(self.url + path)

    def sign_in(self, token: str) -> None:
        """Sign in as an operator."""
        self.go("/sign-in")
        self.one("#token").send_keys(token)
        self.press("Sign in")

    def one(self, selector: str) -> WebElement:
        """The element, once it is there."""
        return eventually(lambda: next(iter(self.all(selector)), None), f"{selector} on {self.driver.current_url}")

    def all(self, selector: str) -> list[WebElement]:
        """All such elements now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def press(self, label: str, within: str = "body") -> None:
        """Press a button, or follow a link that looks like one."""

        def find() -> WebElement | None:
            found = [one for one in self.all(f"{within} button, {within} a") if one.text.strip() == label]
            return found[0] if found else None

        eventually(find, f"a button {label}").click()

    def shows(self, words: str, timeout: float = 30) -> None:
        """Wait until the page says so, without being loaded again by us."""
        eventually(lambda: re.search(words, self.text()), f"{words!r} on {self.driver.current_url}", timeout)

    def text(self) -> str:
        """What the page says."""
        try:
            return self.driver.find_element(By.TAG_NAME, "body").text
        except Exception:
            return ""  # it is being replaced

    def run(self, script: str) -> Any:
        """What a script returns in the page."""
        return self.driver.execute_script(script)

    def resize(self, size: tuple[int, int]) -> None:
        """Give the page a size, whatever the window's frame takes."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def barriers(self) -> list[str]:
        """What axe finds that keeps people out, as `rule: element`."""
        found = Axe().run(self.driver)
        return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]

    def complaints(self) -> list[str]:
        """What the page did that its policy forbids, or that failed in it, since it was last asked."""
        entries: list[dict[str, str]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def picture(self, name: str) -> None:
        """Keep a picture of the whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        self.resize((WIDE[0], max(WIDE[1], height)))
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
        self.resize(WIDE)


@contextmanager
def chromium(url: str, directory: Path, *, javascript: bool = True) -> Iterator[Browser]:
    """A browser of its own."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        pytest.skip("chromium and chromedriver are not on PATH: Debian's chromium and chromium-driver")
    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={directory}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    driver = Chrome(options=options, service=ChromeService(str(programs[1])))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(60)
        browser = Browser(driver, url)
        browser.resize(WIDE)
        yield browser
    finally:
        driver.quit()
