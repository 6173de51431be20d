"""Ctrl-C and SIGTERM, as a terminal or scheduler sends them, end with a hint, not a traceback."""

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from digits_run import ROOT

from stages import store_clean
from stages.terminal import interruption
from stages.terminal.cli import run

MVMR = [sys.executable, "-c", "from stages.terminal.cli import main; main()"]
SENTENCE = "Interrupted. Finished work is kept. Continue with: "
STREAM = ["-s", "train.loading={mode: streaming, workers: 2, buffer: 64}"]


def start(
    root: Path, arguments: list[str], *, dvc: bool = False, **options: int
) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DVC_STAGE", None)
    if dvc:
        environment["DVC_STAGE"] = "extract"
    return subprocess.Popen(
        [*MVMR, *arguments],
        cwd=root,
        env=environment,
        stdout=options.get("stdout", subprocess.PIPE),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process: "subprocess.Popen[str]", arguments: list[str]) -> str:
    """Return the output of an interrupted command, after checking how it ended."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert output.count(SENTENCE) == 1
    assert output.rstrip().endswith(SENTENCE + shlex.join(["mvmr", *arguments]))
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_libraries_that_are_being_imported_do_not_show(
    tmp_path: Path, number: signal.Signals, seconds: float
) -> None:
    shutil.copy(ROOT / "configs" / "digits.yaml", tmp_path / "my experiment.yaml")
    arguments = ["train", "-c", "my experiment.yaml"]
    process = start(tmp_path, arguments)
    own = psutil.Process(process.pid)
    wait_until(lambda: sum(own.cpu_times()[:2]) > seconds, process)
    os.killpg(process.pid, number)
    ended(process, arguments)


def test_a_stage_that_is_interrupted_says_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_clean, "_leftovers", interrupted)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert run(["store", "clean", "--days", "3"]) == 1
    assert capsys.readouterr().err.lstrip() == f"{SENTENCE}mvmr store clean --days 3\n"
    monkeypatch.setenv("DVC_STAGE", "train")
    assert run(["store", "clean"]) == 1
    assert capsys.readouterr().err.lstrip() == f"{SENTENCE}dvc repro\n"


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        (["train", "-s", "train.lr=1"], True),
        (["--debug", "store", "verify"], True),
        (["init", "shard"], False),
        (["embed", "train"], False),
    ],
)
def test_only_what_keeps_its_work_says_so(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], resumes: bool
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    command = shlex.join(["mvmr", *arguments])
    again = f"Interrupted. Unfinished work is not kept. Start again with: {command}"
    expected = f"{SENTENCE}{command}" if resumes else again
    assert interruption.sentence(arguments) == expected


def test_an_interruption_that_comes_too_late_still_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A library may swallow the signal; commands chained to this one must still not start."""

    def interrupted(_: Path) -> list[store_clean.Leftover]:
        monkeypatch.setattr(interruption, "_asked", True)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_clean, "_leftovers", interrupted)
    assert run(["store", "clean", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ok"] is True  # one document, about the finished work
    assert "the command had already finished" in captured.err


def test_ending_that_takes_a_while_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(interruption, "_asked", False)
    monkeypatch.setattr(interruption, "_tell", told.append)
    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(KeyboardInterrupt):
        interruption._unwind(signal.SIGINT, None)
    assert not told
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [line.partition(":")[0] for line in told] == ["Stopping"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_very_end_is_no_crash(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, ["store", "clean"])
    assert process.stdout is not None
    while "has been unused" not in (line := process.stdout.readline()):
        assert line, "it ended without its result"
    while process.poll() is None:
        process.send_signal(number)
        time.sleep(0.05)
    output, _ = process.communicate()
    assert "Traceback" not in output
    assert process.returncode == (1 if "Interrupted" in output else 0)  # never by the signal


def copy_of(project: Path, root: Path) -> Path:
    shutil.copytree(project / "data", root / "data")
    shutil.copy(ROOT / "configs" / "digits.yaml", root / "params.yaml")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "workers"), (signal.SIGINT, "later"), (signal.SIGTERM, "work")],
)
def test_workers_that_extract_end_without_a_word(
    project: Path, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    root = copy_of(project, tmp_path)
    shutil.rmtree(root / "data/digits/features.zarr/scattering")
    arguments = ["extract-features", "--workers", "2"]
    process = start(root, arguments)
    own = psutil.Process(process.pid)
    if moment == "workers":
        wait_until(lambda: len(own.children()) > 2, process)
    else:
        wait_until(lambda: list(root.glob("data/digits/work/scattering-*")), process)
    if moment == "later":
        time.sleep(0.5)
    family = own.children(recursive=True)
    os.killpg(process.pid, number)  # to the whole group, as a terminal does
    ended(process, arguments)
    assert psutil.wait_procs(family, timeout=20)[1] == []
    again = start(root, arguments)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("dvc", [False, True])
def test_extraction_ends_within_seconds_under_load(
    project: Path, tmp_path: Path, dvc: bool
) -> None:
    root = copy_of(project, tmp_path)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for moment in range(15):
            shutil.rmtree(root / "data/digits/features.zarr/scattering", ignore_errors=True)
            arguments = ["extract-features", "--workers", str(1 + moment % 2)]
            process = start(root, arguments, dvc=dvc)
            own = psutil.Process(process.pid)
            wait_until(lambda: list(root.glob("data/digits/work/scattering-*")), process)
            time.sleep(0.2 * moment)
            if process.poll() is not None:
                continue
            family, asked = own.children(recursive=True), time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=60)
            assert time.monotonic() - asked < 3
            assert process.returncode == 1, output
            assert output.count(SENTENCE) == 1
            assert psutil.wait_procs(family, timeout=20)[1] == []
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_saves_although_a_terminal_signals_its_loaders_too(
    project: Path, tmp_path: Path, number: signal.Signals
) -> None:
    root = copy_of(project, tmp_path)
    arguments = ["train", *STREAM, "-s", "train.epochs=30", "-s", "train.schedule={kind: cosine}"]
    process = start(root, arguments)
    wait_until(lambda: list(root.glob("runs/.unfinished/*/epochs.csv")), process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)  # a scheduler signals only the first process
    assert "finishing and saving this step" in ended(process, arguments)
    again = start(root, arguments)
    wait_until(lambda: list(root.glob("runs/.unfinished/*/resume.previous.ckpt")), again)
    again.send_signal(signal.SIGTERM)
    assert "Continuing the interrupted run" in ended(again, arguments)


def read(terminal: int) -> bytes:
    """Return what a terminal shows next, or nothing at its end."""
    if not select.select([terminal], [], [], 60)[0]:
        return b""
    try:
        return os.read(terminal, 65536)
    except OSError:  # on Linux, nobody holds the other end any more
        return b""


def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(tmp_path: Path) -> None:
    shutil.copy(ROOT / "configs" / "digits.yaml", tmp_path / "params.yaml")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MVMR, "train"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen, sent = b"", False
    while piece := read(ours):
        screen += piece
        if not sent and b"loading libraries" in screen:
            sent = True
            process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    os.close(ours)
    assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l")  # the cursor is visible again
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", screen).decode()
    assert "Traceback" not in plain
    assert plain.rstrip().endswith(f"{SENTENCE}mvmr train")
