"""The command line: wrong usage, help, JSON, quiet, completion."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from digits_run import QUICK, ROOT

from pipeline.base.text import counted
from pipeline.models.exporting import FORMATS
from stages.terminal import commands, proposal
from stages.terminal.cli import run
from stages.terminal.commands import cli
from stages.terminal.result import Result

Captured = pytest.CaptureFixture[str]
TEACHER = "{kind: open_clip, model: ViT-B-32, pretrained: nowhere.pt}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "Did you mean 'train'"),
        (["train", "--epochs", "3"], 2, "No such option"),
        (["train", "-s", "train.epoch=3"], 2, "Did you mean 'epochs'"),
        (["train", "-c", "nowhere.yaml"], 2, "mvmr init"),
        (["use", "digit"], 2, "Did you mean 'digits'"),
        (["train", "-s", "train.precision=bf17"], 2, "Did you mean 'bf16'"),
        (["train", "-s", "dataset.split.test=2"], 2, "-s dataset.split.test=2: dataset.split.test"),
        (["export", "--format", "onx"], 2, "Did you mean 'onnx'"),
        (["report", "digit", "here"], 1, "the runs 'digit', 'here'. Did you mean 'digits'?"),
        (["report", "nothing", "here"], 1, "Runs with a report: digits."),
        (
            ["extract-features", "-s", f"features.clip={TEACHER}"],
            1,
            "features.clip.pretrained: there is no file 'nowhere.pt'",
        ),
        (["extract-features", "--only", "hogg"], 2, "Did you mean 'hog'"),
        (["evaluate", "--only", "lin"], 2, "Valid: knn, linear, online, retrieval, ten_percent"),
        (["evaluate", "--checkpoint", "nowhere.pt"], 1, "no checkpoint"),
        (["evaluate"], 1, "architecture is resnet8 in the file"),
        (["store", "verify", "nowhere"], 1, "no feature store"),
        (["train", "-s", "features.hog.bins=12"], 1, "bins is now 12, was 24"),
        (
            ["train", "-s", "features.hog.bins=12"],
            1,
            "Run `mvmr extract-features --only hog -s features.hog.bins=12`, or",
        ),
        (["train", "-s", "dataset.image.mean=[0.5]"], 1, "made from something else"),
        (["train", "-s", "train.batch_size=5000"], 1, "lower the batch size (train.batch_size)"),
        (
            ["train", "-s", "features.dct={kind: dct}", "-s", "objective.dct={kind: dependence}"],
            1,
            "no feature 'dct'",
        ),
        (
            ["shard", "-s", "dataset.source={kind: image_folder, root: nowhere}"],
            1,
            "'nowhere' does not exist",
        ),
        (["export", "--format", "torchvision", *QUICK], 2, "export it as safetensors"),
        (["embed", "nowhere", *QUICK], 1, "no image or folder 'nowhere'"),
        (["embed", "configs", *QUICK], 1, "no images in configs"),
        (["embed", "params.yaml", *QUICK], 1, "params.yaml: Not a readable image"),
        (["embed", "params.yaml", "--checkpoint", "nowhere.onnx"], 1, "no checkpoint"),
        (["evaluate", *QUICK, "-s", "evaluate.knn={ks: [2000]}"], 1, "Make ks smaller"),
        (["evaluate", "-s", "evaluate.few={kind: semi_supervised}"], 2, "set either share"),
        (["evaluate", "-s", "evaluate.zero_shot={teacher: hog}"], 2, "of kind hog, not open_clip"),
        (["evaluate", "-s", "evaluate.zero_shot={teacher: clip}"], 2, "Unknown feature 'clip'"),
        (["evaluate", "-s", "evaluate.knn={select: test}"], 2, "Unknown key 'select'"),
        (["train", "-s", "train.select=test"], 2, "train.select"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    inside: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_another_folder_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plan"]) == 2
    assert "Change to the root of the project" in capsys.readouterr().err


def test_no_training_needs_weights(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "-s", "train=none"]) == 2
    assert "student.weights: train is none" in capsys.readouterr().err
    assert run(["train", "-s", "objective=none"]) == 2
    assert "objective: training needs one" in capsys.readouterr().err


def test_weights_as_they_are_need_no_objective(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["-s", "train=none", "-s", "student.weights=runs/digits/checkpoints/best.pt"]
    text = Path("params.yaml").read_text()
    start, end = text.index("\nobjective:"), text.index("\ntrain:")
    Path("without.yaml").write_text(text[:start] + text[end:])
    for more in (["-s", "objective={}"], ["-s", "objective=none"], ["-c", "without.yaml"]):
        assert run(["train", *QUICK[2:4], *given, *more]) == 0, capsys.readouterr().err
    assert run(["train", "-c", "without.yaml"]) == 2
    assert "objective: this key is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--epoch", "3"],
            "No such option --epoch. Keys of the experiment are set with -s train.epochs=VALUE.",
        ),
        (["train", "--batch-size=3"], "-s train.batch_size=VALUE"),
        (["shard", "--seed", "3"], "-s seed=VALUE"),
        (["train", "--onlx"], "No such option '--onlx'. Did you mean"),
        (["embed", "params.yaml", "-o", "x.csv"], ".parquet or .npz file; found 'x.csv'"),
        (
            ["evaluate", "--checkpoint", "runs/other/checkpoints/best.pt"],
            "no checkpoint "
            "'runs/other/checkpoints/best.pt'. Those of runs are runs/digits/checkpoints/best.pt.",
        ),
        (["train", "-s", "student.weights=nowhere.pt"], "no finished run 'nowhere.pt'"),
    ],
)
def test_what_is_missing_or_not_known_is_said_at_once(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) > 0
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "mvmr train" not in told.partition("Error:")[2]


def every_command(
    group: click.Group = cli, before: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        found.append(((*before, name), command))
        if isinstance(command, click.Group):
            found += every_command(command, (*before, name))
    return found


def test_help_answers_at_once_in_the_order_of_the_pipeline() -> None:
    code = (
        "import sys, time; start = time.process_time()\n"
        "from stages.terminal.cli import run; code = run(['--help'])\n"
        "assert code == 0 and 'torch' not in sys.modules, code\n"
        "print(time.process_time() - start)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = [*cli.commands]
    places = [re.search(rf"^  {name}  ", answer, re.MULTILINE) for name in names]
    found = [place.start() for place in places if place]
    assert len(found) == len(names)
    assert found == sorted(found)
    assert names.index("shard") < names.index("train") < names.index("evaluate")
    assert float(answer.splitlines()[-1]) < 0.5


@pytest.mark.parametrize(("path", "command"), every_command())
def test_every_command_has_help_with_an_example_that_parses(
    path: tuple[str, ...], command: click.Command, capsys: Captured
) -> None:
    assert run([*path, "--help"]) == 0
    example = capsys.readouterr().out.split("Example:")[1].strip().removeprefix("$ ")
    example = re.sub(r'^eval "\$\((.*)\)"$', r"\1", example)
    program, *words = shlex.split(example)
    assert program == "mvmr"
    parsed: click.Command = cli
    while isinstance(parsed, click.Group):
        name, *words = words
        parsed = parsed.commands[name]
    parsed.make_context(name, words)  # raises UsageError if the example is wrong
    assert parsed is command or isinstance(command, click.Group)


def test_every_command_calls_a_stage_that_exists() -> None:
    text = Path(commands.__file__).read_text(encoding="utf-8")
    called = re.findall(r'call\("(\w+):(\w+)"', text)
    assert len(called) == len(every_command()) - 2  # store is a group, completion has no stage
    for module, function in called:
        assert callable(getattr(importlib.import_module(f"stages.{module}"), function))


def test_the_formats_of_export_are_those_that_the_library_writes() -> None:
    assert set(commands.FORMATS) == set(FORMATS)


def test_json_is_one_document_with_the_numbers_of_the_table(inside: Path, capsys: Captured) -> None:
    assert run(["evaluate", "--only", "knn", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert run(["evaluate", "--only", "knn", *QUICK, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    record = json.loads((inside / "runs/digits/metrics/knn.json").read_text())
    assert document["protocols"]["knn"] == record
    row = next(line for line in shown.splitlines() if line.split()[:1] == ["top1"])
    subjects = [record, *record["controls"].values()]
    assert row.split()[1:] == [f"{subject['top1']:.4g}" for subject in subjects]
    assert document["ok"] is True
    assert document["command"] == "evaluate"
    assert document["experiment"] == "digits"
    assert document["dataset"]["images"] == {"train": 1259, "validation": 179, "test": 359}
    assert document["next"] == shlex.join(["mvmr", "report", *QUICK])
    assert f"Next: {document['next']}" in shown
    assert "knn: top1" in captured.err  # other output goes elsewhere


KEYS = {
    "use --list": {"configs"},
    "use digits": {"experiment", "digest", "config"},
    "shard": {
        "experiment",
        "shards",
        "up_to_date",
        "changes",
        "splits",
        "reads",
        "closed",
        "copies",
    },
    "extract-features": {"store", "features", "device"},
    "train": {"checkpoint", "up_to_date", "selection", "last", "doubts", "student", "objective"},
    "report": {"report", "bytes", "verdict", "proposals"},
    "export": {"format", "file", "card", "bytes"},
    "embed configs/../photo.png": {"file", "images", "width", "size"},
    "store info": {"store", "features", "damaged", "unfinished"},
    "store verify": {"store", "parts", "recomputed"},
    "store select": {"features", "targets"},
    "store look": {"listing"},
    "store keep": {"kept"},
    "store clean": {"removed", "leftovers"},
}


@pytest.mark.parametrize("line", KEYS)
def test_every_result_is_json_with_documented_keys(
    inside: Path, capsys: Captured, line: str
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(inside / "photo.png")
    words = line.split()
    quick = [] if words[0] == "use" or words[-1] == "clean" else QUICK
    assert run([*words, *quick, "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    keys = {"ok", "command", "next"} | KEYS[line]
    assert keys <= document.keys()
    documented = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert {key for key in document if f"`{key}`" not in documented} == set()


def test_quiet_prints_nothing(inside: Path, capsys: Captured) -> None:
    assert run(["store", "info", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["train", "--wat"], 2), (["train", "-c", "nowhere.yaml"], 2)]
)
def test_json_of_a_failure_says_why(
    inside: Path, capsys: Captured, arguments: list[str], code: int
) -> None:
    assert run([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["ok"] is False
    assert document["error"] in captured.err


def test_damage_ends_with_one_in_json_too(inside: Path, capsys: Captured) -> None:
    chunk = inside / "data/digits/features.zarr/hog/train/c/0/0"
    sound = chunk.read_bytes()
    try:
        chunk.write_bytes(sound[:-1])
        assert run(["store", "verify", "--json"]) == 1
    finally:
        chunk.write_bytes(sound)
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    damaged = {part["part"]: part["damaged"] for part in document["parts"]}
    assert [file["file"] for file in damaged.pop("hog")] == [
        "data/digits/features.zarr/hog/train/c/0/0"
    ]
    assert not any(damaged.values())
    assert document["next"] == "mvmr store verify --repair"


@pytest.mark.parametrize("place", ["data", "runs"])
def test_a_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / place).write_text("a file is in the way")
    config = ["-c", str(ROOT / "configs/digits.yaml"), *QUICK]
    if place == "data":
        assert run(["shard", *config]) == 1
    else:
        assert run(["shard", *config]) == 0
        features = ["-s", "features={}", "-s", "objective={variance: {}, invariance: {}}"]
        capsys.readouterr()
        assert run(["train", *config, *features, "-s", "train.epochs=1"]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert place in captured.err
    assert len(captured.err.strip().splitlines()) == 1


CHOSEN = {"config": Path("my file.yaml"), "assignments": ("train.lr=1",), "data": "s3://b/d"}


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that the running command was given the options of CHOSEN."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.delenv("MVMR_DATA", raising=False)
    proposal.remember(cli, CHOSEN)
    yield
    proposal.forget()


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("run `mvmr train`.", "run `mvmr train -c 'my file.yaml' -s train.lr=1 --data s3://b/d`."),
        ("`mvmr store keep` says", "`mvmr store keep -c 'my file.yaml' -s train.lr=1` says"),
        (
            "`mvmr store verify --repair x -c y` and `mvmr use NAME`",
            "`mvmr store verify --repair x -c y -s train.lr=1 --data s3://b/d` and `mvmr use NAME`",
        ),
        ("`mvmr embed IMAGES --checkpoint x`", "`mvmr embed IMAGES --checkpoint x`"),
        ("with `mvmr use` (under DVC: `dvc repro`), or", "with `mvmr use`, or"),
        ("`dvc repro --force`, or `mvmr use`", "`mvmr use`"),
    ],
)
def test_a_proposed_command_acts_on_the_same_experiment(said: str, told: str) -> None:
    assert proposal.sentence(said) == told


@pytest.mark.usefixtures("chosen")
def test_the_next_command_keeps_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result({}, following=["mvmr", "train"])
    assert result.next_command() == "mvmr train -c 'my file.yaml' -s train.lr=1 --data s3://b/d"
    monkeypatch.setenv("DVC_STAGE", "train")  # DVC itself runs the next stage
    assert result.next_command() is None
    proposal.forget()
    assert proposal.sentence("`dvc repro`, or `mvmr train`") == "`dvc repro`, or `mvmr train`"


def test_a_mistake_is_the_files_or_an_options(inside: Path, capsys: Captured) -> None:
    content = (inside / "params.yaml").read_text().replace("seed: 0", "seed: -1", 1)
    (inside / "mine.yaml").write_text(content)
    assert run(["train", "-c", "mine.yaml"]) == 2
    assert capsys.readouterr().err.startswith("Error: mine.yaml: seed: ")
    assert run(["train", "-c", "mine.yaml", "-s", "train.epochs=none at all"]) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "Error: mine.yaml and the options have 2 problems:"
    assert [line.split(":")[0].strip() for line in sorted(lines)] == [
        "-s 'train.epochs=none at all'",
        "seed",
    ]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading a stage an error."""

    def load(name: str) -> None:
        raise AssertionError(f"{name} is being loaded")

    monkeypatch.setattr(importlib, "import_module", load)


@pytest.mark.usefixtures("inside", "unloaded")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.epoch=3", "Did you mean 'epochs'"),
        ("features.hog.binz=3", "features.hog.binz: Unknown key 'binz'. Did you mean 'bins'"),
        ("features.x={kind: hogg}", "Did you mean 'hog'"),
        ("evaluate.linera={}", "Did you mean 'linear'"),
        ("objective.hogg={kind: dependence}", "Did you mean 'hog'"),
        ("dataset.source.kind=digit", "Did you mean 'digits'"),
        ("student.architecture=resnet19", "Unknown architecture 'resnet19'. Did you mean"),
        ("train.schedule.kind=cosin", "Did you mean 'cosine'"),
    ],
)
def test_what_is_misspelt_is_said_before_a_stage_is_loaded(
    capsys: Captured, change: str, message: str
) -> None:
    assert run(["train", "-s", change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: -s {shlex.quote(change)}: ")
    assert message in error


@pytest.mark.usefixtures("inside", "unloaded")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "--only", "linera"], "Unknown protocol 'linera'. Did you mean 'linear'"),
        (["extract-features", "--only", "hogg"], "Unknown feature 'hogg'. Did you mean 'hog'"),
        (["report", "digitz", "digits"], "There is no report of a run 'digitz'"),
    ],
)
def test_names_that_do_not_exist_are_said_before_a_stage_is_loaded(
    capsys: Captured, command: list[str], message: str
) -> None:
    assert run(command) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("group", [[], ["store"]])
def test_a_group_alone_is_wrong_usage_that_shows_its_help(
    capsys: Captured, group: list[str]
) -> None:
    assert run([*group, "--help"]) == 0
    shown = capsys.readouterr().out
    assert run(group) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", shown.strip())


@pytest.mark.parametrize(
    ("number", "things", "expected"),
    [
        (0, "images", "0 images"),
        (1, "images", "1 image"),
        (2000, "images", "2,000 images"),
        (1, "batches", "1 batch"),
        (1, "classes", "1 class"),
        (1, "processes", "1 process"),
        (1, "test images", "1 test image"),
    ],
)
def test_one_thing_is_not_several(number: int, things: str, expected: str) -> None:
    assert counted(number, things) == expected


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "ext", ["extract-features"]),
        (["use"], "cifar10_", ["cifar10_clip", "cifar10_dependence", "cifar10_self_supervised"]),
        (["extract-features", "--only"], "", ["hog", "local_std", "scattering"]),
        (["evaluate", "--only"], "r", ["retrieval"]),
        (["evaluate", "-c", "configs/stl10_clip.yaml", "--only"], "z", ["zero_shot"]),
        (["evaluate", "-c", "nowhere.yaml", "--only"], "", []),
        (["export", "--checkpoint"], "runs/d", ["runs/digits/checkpoints/best.pt"]),
        (["train"], "--au", ["--auto-lr", "--auto-batch-size"]),
        (["store"], "v", ["verify"]),
    ],
)
def test_the_shell_completes_names(
    inside: Path, words: list[str], incomplete: str, expected: list[str]
) -> None:
    completion = ShellComplete(cli, {}, "mvmr", "_MVMR_COMPLETE")
    assert [item.value for item in completion.get_completions(words, incomplete)] == expected


def test_completion_needs_no_torch(inside: Path) -> None:
    code = (
        "import sys\nfrom stages.terminal.cli import run\n"
        "try:\n    run([])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    asked = {"COMP_WORDS": "mvmr evaluate --only k", "COMP_CWORD": "3"}
    environment = {**os.environ, **asked, "_MVMR_COMPLETE": "bash_complete"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["plain,knn", "False"]


@pytest.mark.parametrize("shell", commands.SHELLS)
def test_the_completion_script_is_the_shells(capsys: Captured, shell: str) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_MVMR_COMPLETE={shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
