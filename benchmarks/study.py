"""It learns: which objective makes the best encoder in one small budget.

    python -m benchmarks.study search  --root DIR --images DIR --teacher DIR
    python -m benchmarks.study confirm --root DIR --images DIR --teacher DIR
    python -m benchmarks.study table   --root DIR --write docs/results.md

`search` trains every candidate at one seed and notes what its online probes say on validation
images. `confirm` takes the best candidate of every group, trains it with three seeds, and reads
the test images once for each. `table` makes the table from those lines.

Every run has the same student, split, views, length and cached features, which are computed
once below DIR. Results are JSON lines; what they hold is not done again, and a run that was
interrupted goes on where it was saved, so each command is simply started again. `--set` changes
the budget of all runs (`--set train.epochs=200`): use another DIR for another budget.
"""

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.cli import run as mvmr

Terms = Mapping[str, Mapping[str, Any]]

VIEWS: Terms = {"invariance": {}, "variance": {}, "view_dependence": {}}
VICREG: Terms = {
    "invariance": {"weight": 25.0},
    "variance": {"weight": 12.5},
    "covariance": {"weight": 1.0},
}
HAND_CRAFTED = ("pixels", "scattering", "augmented", "hog", "local_std")
SETS = (("scattering",), ("scattering", "hog"), ("scattering", "pixels"), HAND_CRAFTED)
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "scattering": {"J": 2, "L": 8, "reduce": {"pca": 256}},
    "hog": {"reduce": {"pca": 256}},
    "local_std": {"reduce": {"pca": 256}},
}
BUDGET: Mapping[str, Any] = {
    "student": {"architecture": "resnet8x4", "stem": "3x3/2", "projector": [512, 512, 512]},
    "train": {
        "epochs": 8,
        "batch_size": 256,
        "lr": 1e-3,
        "channels_last": True,
        "optimizer": {"name": "adam", "weight_decay": 1e-6},
        "schedule": {"kind": "cosine", "warmup_epochs": 1},
        "augmentation": {"policy": "cifar20"},
    },
}


@dataclass(frozen=True)
class Candidate:
    """An objective, and the question that it is an answer to."""

    group: str
    terms: Terms


def depends(names: Sequence[str], **options: Any) -> Terms:
    """Return a dependence term on each representation."""
    return {name: {"kind": "dependence", **options} for name in names}


def _self_supervised() -> dict[str, Candidate]:
    """Return MV-MR in its variants: sign, statistic, layer, weight, representations, views."""
    found: dict[str, Terms] = {}
    for sign, weight in (("maximised", 1.0), ("minimised", -1.0)):
        for statistic in ("dcor", "dcor_squared", "dcor_squared_unbiased"):
            terms = depends(HAND_CRAFTED, weight=weight, statistic=statistic)
            found[f"five on z, {sign}, {statistic}"] = {**VIEWS, **terms}
    for base_name, base in (("views", VIEWS), ("vicreg", VICREG)):
        for names in (
            ("scattering",),
            ("scattering", "hog"),
            ("scattering", "pixels"),
            HAND_CRAFTED,
        ):
            for weight in (1.0, 5.0, 25.0):
                terms = depends(names, on="h", weight=weight / len(names), view="augmented")
                what = "five" if names == HAND_CRAFTED else " and ".join(names)
                found[f"{base_name} + {what} on h, {weight:g}"] = {**base, **terms}
        both = depends(("scattering",), on="h", weight=5.0, view="both")
        found[f"{base_name} + scattering on h, both views, 5"] = {**base, **both}
        unbiased = depends(("scattering",), on="h", weight=5.0, statistic="dcor_squared_unbiased")
        found[f"{base_name} + scattering on h, unbiased, 5"] = {**base, **unbiased}
        regressed = {"scattering": {"kind": "regression", "view": "augmented", "weight": 5.0}}
        found[f"{base_name} + scattering regressed, 5"] = {**base, **regressed}
    heavier = {**VIEWS, "invariance": {"weight": 25.0}, "variance": {"weight": 12.5}}
    found["heavy views + scattering on h, 5"] = {
        **heavier,
        **depends(("scattering",), on="h", weight=5.0),
    }
    return {name: Candidate("self-supervised: MV-MR", terms) for name, terms in found.items()}


def _distilled() -> dict[str, Candidate]:
    dependence: dict[str, Terms] = {
        "clip on z, published": {**VIEWS, **depends(("clip",))},
        "clip on z and h, 10": {
            **VIEWS,
            "clip": {"kind": "dependence", "weight": 10.0},
            "clip_h": {
                "kind": "dependence",
                "representation": "clip",
                "on": "h",
                "weight": 10.0,
            },
        },
    }
    for view in ("augmented", "both"):
        for statistic in ("dcor", "dcor_squared", "dcor_squared_unbiased"):
            terms = depends(("clip",), on="h", view=view, statistic=statistic)
            dependence[f"clip on h alone, {view}, {statistic}"] = terms
    regression: dict[str, Terms] = {
        f"clip regressed, {loss}, {view}": {
            "clip": {"kind": "regression", "loss": loss, "view": view}
        }
        for loss in ("cosine", "squared")
        for view in ("augmented", "both")
    }
    mixed: dict[str, Terms] = {}
    regressed = {"kind": "regression", "representation": "clip", "view": "both"}
    for weight in (0.3, 1.0, 3.0):
        mixed[f"clip regressed + {weight:g} dependence on h"] = {
            "regressed": regressed,
            **depends(("clip",), on="h", view="both", weight=weight),
        }
    joint: dict[str, Terms] = {}
    for weight in (10.0, 50.0):
        heavy = {**regressed, "weight": weight}
        joint[f"vicreg + clip regressed, {weight:g}"] = {**VICREG, "regressed": heavy}
        joint[f"views + clip regressed, {weight:g}"] = {**VIEWS, "regressed": heavy}
        joint[f"vicreg + clip on h, {weight:g}"] = {
            **VICREG,
            **depends(("clip",), on="h", view="both", weight=weight),
        }
    groups = {
        "distilled: dependence": dependence,
        "distilled: regression": regression,
        "distilled: regression and dependence": mixed,
        "distilled and self-supervised": joint,
    }
    return {
        name: Candidate(group, terms)
        for group, members in groups.items()
        for name, terms in members.items()
    }


CANDIDATES: Mapping[str, Candidate] = {
    "views alone": Candidate("self-supervised: no representation", VIEWS),
    "vicreg": Candidate("self-supervised: VICReg", VICREG),
    **_self_supervised(),
    **_distilled(),
}
# Reported whatever the search says: what was published.
ALWAYS = ("five on z, maximised, dcor", "five on z, minimised, dcor", "clip on z, published")


class Study:
    """All runs of one budget, below one directory."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.root: Path = arguments.root.resolve()
        self.changes: list[str] = arguments.set
        self.searched = self.root / "search.jsonl"
        self.confirmed = self.root / "results.jsonl"
        teacher: Path = arguments.teacher.resolve()
        clip = {
            "kind": "open_clip",
            "model": "tiny-clip-rn64",
            "config": str(teacher / "tiny-clip-rn64.json"),
            "pretrained": str(teacher / "tiny-clip-rn64-cifar10.pt"),
        }
        self.features: dict[str, Any] = {**FEATURES, "clip": clip}
        source = {"kind": "image_folder", "root": str(arguments.images.resolve())}
        self.base: dict[str, Any] = {
            "name": "study",
            "seed": 0,
            "dataset": {
                "name": "cifar10",
                "source": source,
                "split": {"seed": 0, "validation": 0.1, "test": 0},
                "shards": {"samples": 1000, "on_bad_image": "fail"},
                "image": {
                    "size": 32,
                    "channels": 3,
                    "mean": [0.491, 0.482, 0.447],
                    "std": [0.247, 0.243, 0.261],
                },
            },
            "features": self.features,
            **BUDGET,
            "objective": VIEWS,
            "evaluate": {"linear": {}, "knn": {}},
        }

    def prepare(self) -> None:
        """Make shards and features, once."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chdir(self.root)
        config = self._write("study", 0, VIEWS, self.features)
        self._call("shard", config)
        self._call("extract-features", config)

    def train(self, name: str, seed: int, *, all_features: bool = False) -> Path:
        """Train a candidate, or go on, and return its config."""
        terms = CANDIDATES[name].terms
        named = {term.get("representation", key) for key, term in terms.items()}
        features = {
            key: value for key, value in self.features.items() if all_features or key in named
        }
        config = self._write(_identifier(name, seed), seed, terms, features)
        self._call("train", config)
        return config

    def search(self, names: Sequence[str]) -> None:
        """Train every candidate that has no line yet; note its probes on validation images."""
        done = {line["name"] for line in read(self.searched)}
        for name in names:
            if name in done:
                continue
            began = time.monotonic()
            self.train(name, 0)
            with (self._run(name, 0) / "curves.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            line = {
                "name": name,
                "group": CANDIDATES[name].group,
                "probe": max(float(row["validation/probe_top1"]) for row in rows),
                "knn": float(rows[-1]["validation/knn_top1"]),
                "seconds": round(time.monotonic() - began, 1),
                "budget": self._budget(),
            }
            append(self.searched, line)
            print(f"{line['probe']:6.2f} {line['knn']:6.2f}  {name}", flush=True)

    def confirm(self, seeds: Sequence[int]) -> None:
        """Train the chosen candidates with every seed, and read the test images once each."""
        done = {(line["name"], line["seed"]) for line in read(self.confirmed)}
        for name in chosen(read(self.searched)):
            for seed in seeds:
                if (name, seed) in done:
                    continue
                first = not read(self.confirmed)  # the controls need no student of their own
                config = self.train(name, seed, all_features=first)
                self._call("evaluate", config)
                metrics = self._run(name, seed) / "metrics"
                found = {
                    protocol: json.loads((metrics / f"{protocol}.json").read_text())
                    for protocol in ("linear", "knn")
                }
                line = {
                    "name": name,
                    "group": CANDIDATES[name].group,
                    "seed": seed,
                    **{protocol: record["top1"] for protocol, record in found.items()},
                    "controls": _controls(found),
                    "budget": self._budget(),
                }
                append(self.confirmed, line)
                print(f"{line['linear']:6.2f} {line['knn']:6.2f}  {name}, seed {seed}", flush=True)

    def _budget(self) -> dict[str, Any]:
        return {**BUDGET, "changes": self.changes}

    def _run(self, name: str, seed: int) -> Path:
        return self.root / "runs" / _identifier(name, seed)

    def _write(self, name: str, seed: int, terms: Terms, features: Mapping[str, Any]) -> Path:
        config = self.root / "configs" / f"{name}.yaml"
        config.parent.mkdir(exist_ok=True)
        content = {
            **self.base,
            "name": name,
            "seed": seed,
            "objective": {key: dict(term) for key, term in terms.items()},
            "features": {key: dict(feature) for key, feature in features.items()},
        }
        plain = json.loads(json.dumps(content))  # without anchors for what is shared
        with config.open("w") as file:
            YAML().dump(plain, file)
        return config

    def _call(self, command: str, config: Path) -> None:
        changes = [part for change in self.changes for part in ("-s", change)]
        code = mvmr([command, "--quiet", "--config", str(config), *changes])
        if code != 0:
            raise SystemExit(code)


def _controls(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the accuracies of the controls by their names and the protocols."""
    names = found["linear"]["controls"]
    return {n: {p: record["controls"][n]["top1"] for p, record in found.items()} for n in names}


def _identifier(name: str, seed: int) -> str:
    letters = "".join(c if c.isalnum() or c in ".+-" else "_" for c in name)
    return f"{letters.replace('+', 'and').replace('.', 'p')}-{seed}"


def read(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line that was cut off by a killed process is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line, after removing one that was cut off."""
    whole = "".join(json.dumps(entry) + "\n" for entry in read(path))
    temporary = path.with_suffix(".new")
    temporary.write_text(whole + json.dumps(line) + "\n", encoding="utf-8")
    temporary.replace(path)


def chosen(searched: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the best candidate of each group by the probe on validation, and what is published."""
    best: dict[str, Mapping[str, Any]] = {}
    for line in searched:
        if line["group"] not in best or line["probe"] > best[line["group"]]["probe"]:
            best[line["group"]] = line
    if not best:
        raise SystemExit("There is nothing to choose from: run `search` first.")
    searched_names = {line["name"] for line in searched}
    return list(
        dict.fromkeys(
            [*(line["name"] for line in best.values()), *(n for n in ALWAYS if n in searched_names)]
        )
    )


def table(confirmed: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of the results as Markdown: mean and deviation over seeds, on test."""
    rows = ["| | objective | linear | k-NN | seeds |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(line["name"] for line in confirmed):
        lines = [line for line in confirmed if line["name"] == name]
        cells = [_mean([line[protocol] for line in lines]) for protocol in ("linear", "knn")]
        rows.append(f"| {lines[0]['group']} | {name} | {' | '.join(cells)} | {len(lines)} |")
    controls: dict[str, list[Mapping[str, float]]] = {}
    for line in confirmed:
        for control, values in line["controls"].items():
            controls.setdefault(control, []).append(values)
    for control, found in controls.items():
        cells = [_mean([values[protocol] for values in found]) for protocol in ("linear", "knn")]
        rows.append(f"| control | {control} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(rows) + "\n"


def tried(searched: Sequence[Mapping[str, Any]]) -> str:
    """Return all candidates as Markdown, by group, best first: one seed, on validation."""
    rows = ["| | objective | probe | k-NN |", "|---|---|---|---|"]
    for group in dict.fromkeys(line["group"] for line in searched):
        members = [line for line in searched if line["group"] == group]
        rows += [
            f"| {group} | {line['name']} | {line['probe']:.1f} | {line['knn']:.1f} |"
            for line in sorted(members, key=lambda line: -line["probe"])
        ]
    return "\n".join(rows) + "\n"


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write_table(path: Path, study_root: Path) -> None:
    """Put both tables between the marks of a Markdown file, or make the file."""
    results = table(read(study_root / "results.jsonl"))
    search = tried(read(study_root / "search.jsonl"))
    for mark, content in (("results", results), ("search", search)):
        opening, closing = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if opening not in text:
            text += f"\n{opening}{closing}"
        before, _, rest = text.partition(opening)
        after = rest.partition(closing)[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{before}{opening}\n{content}\n{closing}{after}", encoding="utf-8")


def main() -> None:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("search", "confirm", "table", "list"))
    parser.add_argument("--root", type=Path, default=Path("runs/study"))
    parser.add_argument("--images", type=Path, default=Path("data/raw/cifar10"))
    parser.add_argument("--teacher", type=Path, default=Path("data/raw/teacher"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(CANDIDATES), metavar="CANDIDATE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--write", type=Path, help="put the tables into this Markdown file")
    arguments = parser.parse_args()
    if arguments.command == "list":
        for name, candidate in CANDIDATES.items():
            print(f"{candidate.group:38} {name}")
    elif arguments.command == "table":
        print(table(read(arguments.root / "results.jsonl")))
        if arguments.write:
            write_table(arguments.write, arguments.root)
    else:
        study = Study(arguments)
        study.prepare()
        if arguments.command == "search":
            study.search(arguments.only)
        else:
            study.confirm(arguments.seeds)


if __name__ == "__main__":
    main()
