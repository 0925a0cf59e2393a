"""What the README says exists, and what exists is in the README."""

import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

from app.common.openapi import operations
from app.console.pages import create_app as console_app
from app.console.parts import Parts
from app.console.settings import ConsoleSettings
from app.gpu.api import create_app as face_app
from app.gpu.settings import FaceSettings
from app.webhook.settings import WebhookSettings
from app.worker.settings import WorkerSettings
from infra.local.settings import LocalSettings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
#: What a command makes, and git ignores.
MADE = "docs/screenshots/"
SETTINGS = (WebhookSettings, WorkerSettings, FaceSettings, ConsoleSettings, LocalSettings)


def documented_variables() -> dict[str, str]:
    return dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", README, re.M))


def existing_variables() -> dict[str, object]:
    return {name.upper(): field.default for settings in SETTINGS for name, field in settings.model_fields.items()}


def test_every_variable_is_documented_and_every_documented_one_exists() -> None:
    assert documented_variables().keys() == existing_variables().keys()


@pytest.mark.parametrize("name", sorted(documented_variables()))
def test_documented_defaults_are_the_real_ones(name: str) -> None:
    written, real = documented_variables()[name], existing_variables()[name]
    if written.startswith("`"):
        value = ",".join(real) if isinstance(real, tuple) else getattr(real, "get_secret_value", lambda: real)()
        assert written.strip("`") == str(value)
    elif written == "–":
        assert real in (None, "")


def endpoints(app: object) -> set[str]:
    rules = app.url_map.iter_rules()  # type: ignore[attr-defined]
    return {
        f"{method} {re.sub('<[a-z]+:', '<', rule.rule)}"
        for rule in rules
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }


def documented_endpoints(section: str) -> set[str]:
    part = README.split("## Endpoints")[1].split("## Settings")[0]
    webhook, rest = part.split("The face service, `:5001`")
    face, console = rest.split("The console, `:5003`")
    text = {"webhook": webhook, "face": face, "console": console}[section]
    return set(re.findall(r"^\| `((?:GET|POST|PUT|DELETE) [^`]+)`", text, re.M))


def undescribed(app: Flask) -> set[str]:
    return {rule.endpoint for rule in app.url_map.iter_rules()} - operations(app).keys() - {"static"}


def test_every_endpoint_of_the_webhook_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis import Redis

    from app.webhook.api import create_app

    app = create_app(WebhookSettings(), Redis())
    assert documented_endpoints("webhook") == endpoints(app)
    assert undescribed(app) == set()


def test_every_endpoint_of_the_face_service_is_documented() -> None:
    app = face_app(None, FaceSettings())  # type: ignore[arg-type]
    assert documented_endpoints("face") == endpoints(app)
    assert undescribed(app) == set()


def test_every_endpoint_of_the_console_is_documented() -> None:
    settings = ConsoleSettings.model_validate({"console_token": "sixteen or more letters"})
    with closing(Parts(settings)) as parts:
        app = console_app(settings, parts)
    assert documented_endpoints("console") == endpoints(app)
    assert undescribed(app) == set()


def test_every_make_target_named_exists() -> None:
    named = set(re.findall(r"make ([a-z-]+)", "".join(re.findall(r"`[^`]*`|```sh.*?```", README, re.S))))
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert named - {"curl"} <= set(re.findall(r"make ([a-z-]+)", listed)) | {"help"}
    assert {"demo", "test", "serve", "help"} <= named


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_file_the_docs_name_exists(page: Path) -> None:
    for name in re.findall(r"`((?:app|infra|scripts|tests|docs)/[^`<> ]+)`", page.read_text() + README):
        assert (ROOT / name.partition("::")[0]).exists() or name.startswith(MADE), name
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_reason_code_is_documented() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    raised = set(re.findall(r'PermanentError\(\s*"([a-z_]+)"', sources)) - {"bad_request"}
    raised |= set(re.findall(r'Kind\.[A-Z]+: \("([a-z_]+)"', sources))
    documented = (ROOT / "docs" / "architecture.md").read_text().split("(`reason_code`):")[1]
    assert raised <= set(re.findall(r"`([a-z_]+)`", documented))


def test_every_line_of_before_and_now_is_tried() -> None:
    page = (ROOT / "docs" / "migration.md").read_text()
    lines = re.findall(r"^\| (.+?) \| (.+?) \| `([^`:]+)::(\w+)` \|$", page, re.M)
    assert len(lines) == page.count("\n| ") - 1 >= 15
    for _, now, file, test in lines:
        assert f"def {test}(" in (ROOT / file).read_text(), test
        for target in re.findall(r"`make ([a-z-]+)", now):
            assert f"\n{target}: " in (ROOT / "Makefile").read_text(), target
