"""Times are measured by phase and kept across attempts; recording them never causes a failure."""

from pathlib import Path

import pytest

from pipeline.base.progress import Silent
from pipeline.base.timing import read_attempts, record_name, timed


def test_phases_and_attempts(tmp_path: Path) -> None:
    path = tmp_path / record_name("train", "0123456789abcdef0123")
    assert path.name == "train-0123456789abcdef.json"
    assert read_attempts(path) == []

    def interrupted() -> None:
        with timed([path], Silent()) as progress:
            progress.start("train", 10, "steps", step="train")
            progress.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with timed([path], Silent()) as progress:
        progress.start("load", 3, "images")
        progress.advance(3)
        progress.start("train", 6, "steps")
        progress.advance(6)
    broken, whole = read_attempts(path)
    assert (broken.finished, whole.finished) == (False, True)
    assert [(p.what, p.done, p.step) for p in broken.phases] == [("train", 4, "train")]
    assert [(p.what, p.done) for p in whole.phases] == [("load", 3), ("train", 6)]
    assert sum(phase.seconds for phase in whole.phases) <= whole.seconds
    with timed([path], Silent()):
        pass
    assert len(read_attempts(path)) == 1  # the next attempt replaces a finished one
    path.write_text("{")
    assert read_attempts(path) == []
