"""Everything that the documentation names exists: links, commands, options, keys, paths."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from dvc.cli.parser import get_main_parser
from pages import ROOT, Page, page, pages
from ruamel.yaml import YAML
from test_extending import merged

from pipeline.base.errors import ConfigError
from pipeline.base.yaml_file import read_yaml
from stages.experiment.schema import Experiment, load
from stages.terminal.cli import run

PAGES = pages()
BIN = Path(sys.executable).parent
CONFIGS = {  # the quickest to check comes first
    path.stem: read_yaml(path)
    for path in [ROOT / "params.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]
}
DVC_STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
SECTIONS = tuple(Experiment.model_fields)
# What a line of a console block may begin with, besides mvmr, dvc and make, which are checked.
PROGRAMS = {
    "cd",
    "cp",
    "ln",
    "mkdir",
    "dask",
    "export",
    "git",
    "pip",
    "pytest",
    "python",
    "source",
    "torchrun",
}
FOLDERS = "mvmr|pipeline|stages|tests|configs|docs|benchmarks"
NAMED = re.compile(rf"(?<![\w/])(?:{FOLDERS})/[\w./*<>-]*[\w*>/]")
KEY = re.compile(rf"((?:{'|'.join(SECTIONS)})(?:\.\w+)+)(?:(?:: |=)(.+))?")

every_page = pytest.mark.parametrize("found", PAGES, ids=lambda found: found.name)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every simple command in a shell script."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&;|"):
                if words:
                    yield words
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)


def named_commands(found: Page) -> list[list[str]]:
    """Return the commands in console blocks, and those that the text names."""
    blocks = [block.text for block in found.blocks("console", "bash")]
    inline = [code for code in found.code() if re.match(r"(mvmr|dvc|make|python -m) ", code)]
    # A command that is only named may need more than its name.
    inline = [f"{c} --help" if re.fullmatch(r"mvmr [\w-]+", c) else c for c in inline]
    return [words for text in [*blocks, *inline] for words in commands(text)]


def of_mvmr(found: Page) -> list[list[str]]:
    """Return the words after `mvmr`, also if another program starts it (srun, torchrun)."""
    every = named_commands(found)
    return [words[words.index("mvmr") + 1 :] for words in every if "mvmr" in words]


def values_of(words: list[str], *options: str) -> list[str]:
    return [value for option, value in pairwise(words) if option in options]


def own_names(found: Page) -> set[str]:
    """Return the names below sections of the page's own fragments, and its own configs."""
    fragments = [YAML(typ="safe", pure=True).load(block.text) for block in found.blocks("yaml")]
    sections = [s for data in fragments for s in data.values() if isinstance(s, dict)]
    text = found.path.read_text(encoding="utf-8")
    return {name for section in sections for name in section} | set(
        re.findall(r"configs/(\w+)\.yaml", text)
    )


def is_placeholder(name: str) -> bool:
    return name.isupper() or "<" in name


def problem(data: dict[str, Any], assignments: Sequence[str], folder: Path) -> str:
    """Return the problems of an experiment, or an empty string."""
    path = folder / "experiment.yaml"
    with path.open("w") as file:
        YAML().dump(data, file)
    try:
        load(path, assignments)
    except ConfigError as error:
        return str(error)
    return ""


def rejected(
    folder: Path, *, fragment: Mapping[str, Any] | None = None, assignments: Sequence[str] = ()
) -> str:
    """Return why the first experiment rejects a change, or "" if any experiment accepts it."""
    problems = (problem(merged(c, fragment or {}), assignments, folder) for c in CONFIGS.values())
    first = next(problems)
    return "" if not first or not all(problems) else first


@every_page
def test_links_and_anchors_lead_somewhere(found: Page) -> None:
    for link in found.links():
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (found.path.parent / target).resolve() if target else found.path
        assert path.exists(), link
        assert path.is_relative_to(ROOT), link
        if anchor:
            assert anchor in Page(path).anchors(), link


def test_every_page_is_in_the_index() -> None:
    index = page("docs/README.md")
    listed = {(index.path.parent / link).resolve() for link in index.links()}
    assert {found.path for found in PAGES[1:]} - listed == {index.path}


@every_page
def test_commands_parse(found: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)
    for words in of_mvmr(found):
        assert run(words) == 0, words


@every_page
def test_overrides_and_names_of_commands_exist(found: Page, tmp_path: Path) -> None:
    known = own_names(found)
    for words in of_mvmr(found):
        given = values_of(words, "-s", "--set")
        assert not given or not rejected(tmp_path, assignments=given), words
        for name in values_of(words, "--only"):
            section = "features" if "extract-features" in words else "evaluate"
            names = {key for data in CONFIGS.values() for key in data[section]}
            assert name in names | known or is_placeholder(name), words
        if words[0] == "use" and words[-1].isidentifier() and not is_placeholder(words[-1]):
            assert words[-1] in CONFIGS.keys() | known, words


@every_page
def test_stages_targets_and_programs_exist(found: Page) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in named_commands(found):
        program, *rest = words
        if program == "dvc" and "--help" not in rest:
            parsed = get_main_parser().parse_args(rest)
            for target in getattr(parsed, "targets", None) or []:
                check_stage(target)
        elif program == "make":
            assert set(rest) <= set(targets), words
        elif "-m" in rest and program == "python":
            (module,) = values_of(words, "-m")
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), words
        else:
            assert program in PROGRAMS | {"dvc"} or "mvmr" in words, words


def check_stage(target: str) -> None:
    """Check the name of a stage, with the key after `@`; other targets are files of runs."""
    stage, _, key = target.partition("@")
    assert stage in DVC_STAGES or stage.startswith("runs/"), target
    if key and not is_placeholder(key):
        section = {"extract": "features", "evaluate": "evaluate"}[stage]
        assert any(key in data[section] for data in CONFIGS.values()), target


# Those of docs/extending need what the page adds; test_extending.py runs them.
@pytest.mark.parametrize(
    "found", [p for p in PAGES if p.path.parent.name != "extending"], ids=lambda found: found.name
)
def test_fragments_of_experiments_are_valid(found: Page, tmp_path: Path) -> None:
    for block in found.blocks("yaml"):
        data = YAML(typ="safe", pure=True).load(block.text)
        assert set(data) <= set(SECTIONS), block.text
        assert not rejected(tmp_path, fragment=data), block.text


@every_page
def test_keys_in_the_text_exist(found: Page, tmp_path: Path) -> None:
    for code in found.code():
        match = KEY.fullmatch(code)
        if match is None:
            continue
        key, value = match.groups()
        if value and not is_placeholder(value):
            assert not rejected(tmp_path, assignments=[f"{key}={value}"]), code
            continue
        answers = (problem(data, [f"{key}=null"], tmp_path) for data in CONFIGS.values())
        assert any("Unknown key" not in a and "Cannot set" not in a for a in answers), code


@every_page
def test_paths_exist(found: Page) -> None:
    text = found.path.read_text(encoding="utf-8")
    own = {name for block in found.blocks("python") for name in NAMED.findall(block.before)}
    for name in set(NAMED.findall(text)) - own:
        if any(is_placeholder(part.partition(".")[0]) for part in name.split("/")):
            continue
        assert any(ROOT.glob(name)) or name.startswith("configs/photos"), name


def test_troubles_quote_what_the_code_says() -> None:
    sources = [p for folder in ("pipeline", "stages") for p in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    said = re.sub(r'"\s*\n\s*f?"', "", code)  # joins the pieces of a sentence
    titles = re.findall(r"^### `(.+)`$", page("docs/troubles.md").path.read_text(), re.MULTILINE)
    assert len(titles) > 20
    for title in titles:
        pieces = [piece.strip(" ()") for piece in title.split("…")]
        if not title.startswith("git "):
            assert all(piece in said for piece in pieces), title


def test_figures_are_what_the_code_draws(tmp_path: Path) -> None:
    figures = ROOT / "docs/figures"
    subprocess.run([sys.executable, figures / "draw.py", tmp_path], check=True, cwd=ROOT)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in figures.glob("*.svg")}


@pytest.mark.slow
@pytest.mark.skipif(not (BIN / "mvmr").exists(), reason="needs the installed commands: make setup")
def test_the_first_five_minutes(tmp_path: Path) -> None:
    """Run every command of the page in a fresh copy in which `make setup` has been done.

    The experiment is shorter than the page's, with only the protocols that the page shows.
    """
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "DVC_NO_ANALYTICS": "1",
    }

    def shell(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    who = "-c user.name=test -c user.email=test@example.org"
    copy = f"xargs -0 cp --parents --no-dereference -t {tmp_path}"
    shell(f"git -C {ROOT} ls-files -z | (cd {ROOT} && {copy})")
    experiment = merged(read_yaml(ROOT / "configs/robust_digits.yaml"), {"train": {"epochs": 4}})
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(experiment | {"evaluate": {"robustness": {}, "linear": {}}}, file)
    shell(f"git init -q && git add -A && git {who} commit -qm copy")
    shell("mkdir -p .venv/bin && touch .venv/bin/activate .venv/.installed")
    shown = shell("\n".join(block.text for block in page("docs/start.md").blocks("console")))
    assert re.search(r"scores/linear.json +top1 .*9\d\.\d", shown)
    assert re.search(r"scattering +128 +\d+ +float16", shown)
    assert shown.count("Running stage 'train@robust_digits'") == 2
    assert shown.count("Running stage 'extract@robust_digits-hog'") == 1
    assert (tmp_path / "runs/robust_digits/report.html").exists()
    assert (tmp_path / "runs/robust_digits/exports/robust_digits.safetensors.json").exists()
