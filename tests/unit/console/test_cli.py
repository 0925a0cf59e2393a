"""`lookingglass`: what it prints, for people and for programs, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.__main__ import main
from app.common.inspection import suspended
from tests.unit.console import standin
from tests.unit.console.conftest import Console
from tests.unit.console.standin import record, rejected

ROOT = Path(__file__).parents[3]

COMMANDS = (
    *("status", "failed", "retry", "items", "item", "reconcile", "proof", "release"),
    *("models", "forget", "pause", "resume", "logs"),
)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def outputs(console: Console, tmp_path: Path) -> Iterator[Path]:
    """The outputs of a stack with this console."""
    with standin.served(console.app) as url:
        path = tmp_path / "outputs.json"
        path.write_text(json.dumps({"console_url": url, "console_token": standin.TOKEN}))
        yield path


@pytest.fixture
def lookingglass(outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on this console: exit status, what it printed, what it said beside."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lookingglass", "--outputs", str(outputs), *arguments])
        try:
            status = main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed, said = capsys.readouterr()
        return status, printed, said

    return run


def json_of(answer: tuple[int, str, str]) -> Any:
    return json.loads(answer[1])


def test_the_status_is_a_sentence_a_table_and_an_exit_status(console: Console, lookingglass: Command) -> None:
    standin.worker(console.redis, "w1")
    status, printed, _ = lookingglass("status")
    assert status == 0
    assert printed.startswith("All is well.\n")
    assert "Face service" in printed
    console.faces.ready = False
    status, printed, _ = lookingglass("status")
    assert status == 1
    assert printed.startswith("Face service, Index need help.\n")
    assert json_of(lookingglass("--json", "status"))["verdict"]["state"] == "red"


def test_what_a_worker_is_at_is_in_the_status(console: Console, lookingglass: Command) -> None:
    console.enqueue("clip.mp4", "job-1", bucket="videos")
    standin.worker(console.redis, "w1", "job-1")
    printed = lookingglass("status")[1]
    assert "s3:ObjectCreated:Put videos/clip.mp4" in printed
    assert "Backlog: 1 job, measuring." in printed


def test_failed_jobs_stand_by_reason_and_are_put_back(console: Console, lookingglass: Command) -> None:
    for number in range(3):
        console.fail(f"{number}.jpg", f"a-{number}", f"ValueError: bad number {number}")
    console.fail("b.jpg", "b-1", "KeyError: 'x'")
    status, printed, _ = lookingglass("failed")
    assert status == 0
    assert "4 jobs failed." in printed
    assert "3 × ValueError: bad number N" in printed
    reason = json_of(lookingglass("--json", "failed"))["groups"][0]["reason"]
    assert lookingglass("retry", "--reason", reason)[2].startswith("3 jobs of this group")
    assert lookingglass("retry", "b-1")[0] == 0
    status, _, said = lookingglass("retry", "b-1")
    assert (status, "There is no failed job b-1" in said) == (1, True)
    assert lookingglass("retry", "--all")[2].startswith("0 failed jobs")
    assert len(console.waiting()) == 4


def test_objects_are_listed_as_many_as_wanted_however_many_pages_that_takes(
    console: Console, lookingglass: Command
) -> None:
    console.faces.put(*(record("images", f"{number:03}.jpg") for number in range(120)))
    console.faces.put(rejected("images", "x.gif", "truncated", "Cut off."))
    assert len(lookingglass("items")[1].splitlines()) == 1 + 50
    assert len(json_of(lookingglass("--json", "items", "--limit", "115"))) == 115
    status, printed, _ = lookingglass("items", "--status", "rejected")
    assert status == 0
    assert printed.splitlines()[1].split() == [
        "images/x.gif", "rejected", "0", "truncated", "dlib-1", "2026-11-01", "10:00:02", "UTC",
    ]  # fmt: skip


def test_one_object_and_its_faces(console: Console, lookingglass: Command) -> None:
    console.faces.put(record("images", "a.jpg"))
    console.bucket.objects["images", "a.jpg"] = b"x"
    status, printed, _ = lookingglass("item", "images", "a.jpg")
    assert status == 0
    for text in ("images/a.jpg", "indexed, 1 face", "upload to index", "2.5 s", "0.99", "10, 20, 60, 70"):
        assert text in printed
    assert lookingglass("item", "images", "nothing.jpg")[0] == 1


def test_the_proof_ends_well_only_if_nothing_is_left_and_everybody_answered(
    console: Console, lookingglass: Command
) -> None:
    console.bucket.objects["images", "a.jpg"] = b"x"
    assert lookingglass("proof", "images", "a.jpg")[0] == 1
    console.bucket.objects.clear()
    status, printed, _ = lookingglass("proof", "images", "a.jpg")
    assert (status, printed.startswith("Nothing is left of it.")) == (0, True)
    console.bucket.away = True
    status, printed, _ = lookingglass("proof", "images", "a.jpg")
    assert (status, "MinIO" in printed) == (1, True)
    console.bucket.away = False
    console.faces.put(record("images", "a.jpg"))
    assert json_of(lookingglass("--json", "proof", "images", "a.jpg"))["gone"] is False


def test_verdicts_are_released_one_by_one_by_reason_or_all(console: Console, lookingglass: Command) -> None:
    console.faces.put(*(rejected("images", f"{n}.gif", code, "No.") for n, code in enumerate("abba")))
    assert lookingglass("release", "images", "0.gif")[0] == 0
    assert lookingglass("release", "--reason-code", "b")[2].startswith("2 objects released")
    assert lookingglass("release", "--all")[2].startswith("1 object released")
    assert lookingglass("release")[0] == lookingglass("release", "images")[0] == 2
    assert len(console.waiting()) == 4


def test_models_buckets_and_workers(console: Console, lookingglass: Command) -> None:
    console.faces.models.append({"model_id": "old", "points": 5, "items": 2, "in_use": False, "read": False})
    printed = lookingglass("models", "--drop", "old", "--switch")[1]
    assert "in use, what readers see" in printed
    assert "old" not in printed
    assert console.faces.switched
    assert lookingglass("forget", "images")[0] == 1
    assert lookingglass("forget", "retired")[0] == 0
    assert lookingglass("pause")[0] == 0
    assert suspended(console.redis)
    assert lookingglass("resume")[0] == 0
    assert not suspended(console.redis)


def test_a_comparison_that_is_not_waited_for_is_only_begun(console: Console, lookingglass: Command) -> None:
    status, _, said = lookingglass("reconcile")
    assert (status, "waits for a worker" in said) == (0, True)
    status, _, said = lookingglass("reconcile")
    assert (status, "under way" in said) == (1, True)


def test_hostile_names_do_nothing_to_a_terminal(console: Console, lookingglass: Command) -> None:
    name = "a\x1b[31m\u202e\r\nb[bold]{x}.jpg"
    console.faces.put(rejected("images", name, "damaged", f"Bad {name}"))
    console.fail(name, "job-1", f"ValueError: {name}")
    shown = "a\\x1b[31m\\u202e\\r\\nb[bold]{x}.jpg"
    for arguments in (("items",), ("failed",), ("item", "images", name)):
        printed = lookingglass(*arguments)[1]
        assert shown in printed
        assert not {"\x1b", "\u202e", "\r"} & set(printed)


def test_a_console_that_is_away_unknown_or_deaf_to_the_token_is_status_3(
    outputs: Path, lookingglass: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = json.loads(outputs.read_text())
    for wrong, words in (
        ({"console_url": "http://127.0.0.1:9"}, "does not answer"),
        ({"console_token": "another token than its own"}, "does not know the token"),
        ({"console_url": None}, "names no console_url"),
    ):
        outputs.write_text(json.dumps({**whole, **wrong}))
        status, _, said = lookingglass("status")
        assert (status, words in said) == (3, True), said
    outputs.write_text("{")
    assert lookingglass("status")[0] == 3
    outputs.unlink()
    status, _, said = lookingglass("status")
    assert (status, "make serve" in said) == (3, True)


def test_the_environment_says_where_the_console_is(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads(outputs.read_text())
    monkeypatch.setenv("CONSOLE_URL", whole["console_url"] + "/")
    monkeypatch.setenv("CONSOLE_TOKEN", whole["console_token"])
    monkeypatch.setattr(sys, "argv", ["lookingglass", "models"])
    assert main() == 0
    assert "dlib-1" in capsys.readouterr().out


def test_the_end_of_a_log_is_shown_and_a_log_that_is_not_there_named(outputs: Path, lookingglass: Command) -> None:
    logs = outputs.parent / "logs"
    logs.mkdir()
    for name in ("worker-1", "worker-2", "webhook"):
        (logs / f"{name}.log").write_text("".join(f"{name} line {n}\n" for n in range(9)))
    command = [sys.executable, "-m", "app.cli", "--outputs", str(outputs), "logs"]
    shown = subprocess.run([*command, "worker", "-n", "2"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in shown.stdout.splitlines() if " line " in line] == [
        "worker-1 line 7", "worker-1 line 8", "worker-2 line 7", "worker-2 line 8",
    ]  # fmt: skip
    status, _, said = lookingglass("logs", "nobody")
    assert (status, "webhook, worker-1, worker-2" in said) == (1, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(lookingglass: Command, command: str) -> None:
    status, printed, _ = lookingglass(command, "--help")
    assert (status, f"lookingglass {command}" in printed) == (0, True)


@pytest.mark.parametrize(
    "arguments", [(), ("retry",), ("retry", "a", "--all"), ("items", "--limit", "many"), ("shout",)]
)
def test_a_wrong_command_line_is_status_2(lookingglass: Command, arguments: tuple[str, ...]) -> None:
    assert lookingglass(*arguments)[0] == 2


def test_bash_completes_its_commands_and_options(lookingglass: Command, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(lookingglass("--print-completion", "bash")[1])

    def completed(*words: str) -> set[str]:
        line = " ".join(words)
        ask = f"""
        source {script}
        COMP_WORDS=({line.replace("''", '""')}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'
        $(complete -p lookingglass | sed 's/.*-F \\([^ ]*\\).*/\\1/') lookingglass
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert completed("lookingglass", "re") == {"retry", "reconcile", "release", "resume"}
    assert {"--reason", "--all"} <= completed("lookingglass", "retry", "--")


def test_it_runs_from_anywhere(outputs: Path, tmp_path: Path) -> None:
    link = tmp_path / "lookingglass"
    link.symlink_to(ROOT / "scripts" / "lookingglass")
    done = subprocess.run(
        [str(link), "--outputs", "outputs.json", "models"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "dlib-1" in done.stdout) == (0, True), done.stderr
