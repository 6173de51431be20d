"""Every command, with its options, its help and an example.

Nothing heavy is imported here, so that help, usage errors and completion respond at once. A
command imports its stage when it runs.
"""

from pathlib import Path
from typing import Any

import click

from stages.terminal import completion
from stages.terminal.checks import check_runs
from stages.terminal.help import OneOf, PipelineGroup, StageCommand, StageGroup
from stages.terminal.shared_options import (
    auto_options,
    call,
    data_option,
    experiment_options,
    only_option,
    output_options,
)

FILE = click.Path(path_type=Path, dir_okay=False)
FORMATS = ("safetensors", "onnx", "torchvision", "timm", "released")
EMBEDDINGS = (".npz", ".parquet")
SHELLS = ("bash", "zsh", "fish")


def _of_known_kind(context: click.Context, _: click.Parameter, path: Path) -> Path:
    """Refuse to write embeddings to a file of an unknown kind, before anything is loaded."""
    if path.suffix not in EMBEDDINGS:
        raise click.UsageError(
            f"Embeddings are written to a .parquet or .npz file; found {path.name!r}.", context
        )
    return path


@click.group(cls=PipelineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mvmr")
@click.option("--debug", is_flag=True, help="Show the traceback if an error occurs.")
def cli(debug: bool) -> None:
    """Train a small image encoder on images and cached representations.

    `dvc repro` runs the whole active experiment, params.yaml. The commands below are its stages,
    in order, and the steps before and after them.
    """
    del debug


@cli.command(
    "init",
    cls=StageCommand,
    section="Choose an experiment",
    line="Set up a project in this folder, for photographs of your own.",
    example="mvmr init ../photos --teacher open_clip:ViT-B-16/laion400m_e32",
)
@click.argument("photos", required=False, type=click.Path(path_type=Path))
@click.option(
    "--teacher",
    metavar="TEACHER",
    help="Learn from this network: open_clip:MODEL/TAG or timm:NAME, with :FILE for weights in a "
    "file.  [default: images alone]",
)
@click.option(
    "--student",
    metavar="STUDENT",
    help="Train this network: timm:NAME, resnet18, -34, -50, or resnet8 to -110 (x2, x4); with "
    ":FILE, or timm:NAME:pretrained, it starts from known weights.  [default: that of the config]",
)
@click.option(
    "--from",
    "begin_from",
    metavar="NAME",
    shell_complete=completion.configs,
    help="Start from this config.  [default: folder_clip with a teacher, folder_self_supervised "
    "without, digits without photographs]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="What the whole run may take on this machine.",
)
@output_options
def init(**options: Any) -> int:
    """Write params.yaml, dvc.yaml and what else a project needs into this folder.

    PHOTOS is a folder of images. Some of them are measured on this machine, and the size of images,
    the batch and the epochs chosen that suit them and the time. Without PHOTOS, a config is taken
    as it is.
    """
    return call("init:init", **options)


@cli.command(
    "use",
    cls=StageCommand,
    section="Choose an experiment",
    line="Check a config and make it the active experiment.",
    example="mvmr use digits",
)
@click.argument("name", required=False, shell_complete=completion.configs)
@click.option("--list", "listing", is_flag=True, help="List the available configs.")
@click.option("--force", is_flag=True, help="Overwrite an edited params.yaml.")
@output_options
def use(**options: Any) -> int:
    """Check the config NAME, or the file NAME, and copy it to params.yaml.

    Configs come with the program, and from the folder configs/ of the project.
    """
    return call("use:use", **options)


@cli.command(
    "doctor",
    cls=StageCommand,
    section="Choose an experiment",
    line="Check this machine and the state of every stage; say what to fix.",
    example="mvmr doctor",
)
@experiment_options
@data_option
def doctor(**options: Any) -> int:
    """Check this machine, the active config and the state of every stage; say what to fix."""
    return call("doctor:doctor", check=False, **options)


@cli.command(
    "plan",
    cls=StageCommand,
    section="Choose an experiment",
    line="Estimate the cost of the experiment from a short measurement.",
    example="mvmr plan --images 256",
)
@experiment_options
@click.option(
    "--images",
    type=click.IntRange(min=24),
    help="Number of images to measure.  [default: one of twelve, from 96 to 256]",
)
@data_option
def plan(**options: Any) -> int:
    """Measure a few images on this machine, and estimate what the whole experiment will take."""
    return call("plan:plan", **options)


@cli.command(
    "shard",
    cls=StageCommand,
    section="Compute once",
    line="Pack the images into WebDataset tars.",
    example="mvmr shard",
)
@experiment_options
@click.option("--compact", is_flag=True, help="Pack anew, without the images that are gone.")
@click.option("--force", is_flag=True, help="Pack anew, and read every image again.")
@data_option
def shard(**options: Any) -> int:
    """Pack the images into shuffled WebDataset tars, split by seed, with a manifest.

    What is packed already stays: new images are added, and those that are gone marked.
    """
    return call("shard:shard", **options)


@cli.command(
    "extract-features",
    cls=StageCommand,
    section="Compute once",
    line="Compute every representation once.",
    example="mvmr extract-features --only scattering",
)
@experiment_options
@only_option("features", "Extract only this feature; may be repeated.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of local worker processes.  [default: one per core, fewer for few images]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler, tcp://...")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images that a network takes at once.  [default: what suits the device and the network]",
)
@data_option
@click.option("--force", is_flag=True, help="Recompute features that are already stored.")
def extract_features(**options: Any) -> int:
    """Compute the experiment's features that are not in the store yet."""
    return call("extract_features:extract_features", section="features", **options)


@cli.command(
    "train",
    cls=StageCommand,
    section="Train, score, look",
    line="Train the student on images and cached targets.",
    example="mvmr train -s train.epochs=50",
)
@experiment_options
@auto_options
@click.option("--force", is_flag=True, help="Train again even if nothing has changed.")
@data_option
def train(**options: Any) -> int:
    """Train the student, or continue an interrupted run of the same experiment."""
    return call("train:train", **options)


@cli.command(
    "evaluate",
    cls=StageCommand,
    section="Train, score, look",
    line="Score the student and its controls.",
    example="mvmr evaluate --only linear --only knn",
)
@experiment_options
@only_option("evaluate", "Run only this protocol; may be repeated.")
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=FILE,
    shell_complete=completion.checkpoints,
    help="Score this file instead of the run's best checkpoint, without saving the scores.",
)
@auto_options
@click.option("--force", is_flag=True, help="Score again even if nothing has changed.")
@data_option
def evaluate(**options: Any) -> int:
    """Score the trained student, the untrained one, pixels and every stored feature alike.

    The FILE of --checkpoint may hold released MV-MR weights, unconverted. For each subject, the
    values that --auto-lr and --auto-batch-size find replace encoder_lr, head_lr and batch_size
    of semi_supervised, and lrs and batch_size of an augmented fit.
    """
    return call("evaluate:evaluate", section="evaluate", **options)


@cli.command(
    "report",
    cls=StageCommand,
    section="Train, score, look",
    line="Write one HTML page about a run.",
    example="mvmr report",
)
@click.argument("runs", nargs=-1, metavar="[RUN RUN ...]", shell_complete=completion.runs)
@experiment_options
@data_option
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Where to write the page.  [default: runs/NAME/report.html, or runs/comparison.html]",
)
def report(**options: Any) -> int:
    """Write a page about the active experiment, or compare the named RUNs.

    The page says what was done, how good the result is, and whether to trust it. Each RUN must
    already have a report of its own.
    """
    if options["runs"]:
        check_runs(options["runs"])
    return call("report:report", check=not options["runs"], **options)


@cli.command(
    "export",
    cls=StageCommand,
    section="Use the encoder",
    line="Write the trained backbone for other programs.",
    example="mvmr export --format onnx",
)
@experiment_options
@data_option
@click.option(
    "--format",
    "form",
    type=OneOf("format", FORMATS),
    help="safetensors, onnx and released: any student; torchvision: its own ResNets, to load "
    "with fc = Identity; timm: those and timm's own models.  [default: safetensors, or onnx with "
    "--int8]",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Write ONNX with 8-bit integers as well, calibrated on training images, and compare both "
    "files in size, latency, scores and neighbours.",
)
@click.option(
    "--checkpoint",
    type=FILE,
    shell_complete=completion.checkpoints,
    help="Export this checkpoint, or released file, instead of the run's best checkpoint.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Where to write the weights; those of --int8 lie beside them, as FILE.int8.onnx.  "
    "[default: in runs/NAME/exports]",
)
def export(**options: Any) -> int:
    """Write the backbone's weights, and a JSON card: architecture, preprocessing, how to load."""
    if options["int8"] and options["form"] not in (None, "onnx"):
        raise click.UsageError(
            f"--int8 writes ONNX: leave out --format, or name onnx; found {options['form']!r}."
        )
    options["form"] = options["form"] or ("onnx" if options["int8"] else "safetensors")
    return call("export:export", **options)


@cli.command(
    "embed",
    cls=StageCommand,
    section="Use the encoder",
    line="Embed any images with a trained encoder.",
    example="mvmr embed photos/ -o runs/photos.npz",
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@experiment_options
@click.option(
    "--checkpoint",
    type=FILE,
    shell_complete=completion.checkpoints,
    help="Use this checkpoint, released MV-MR file, or file of `mvmr export` with its card beside "
    "it, instead of the run's best checkpoint.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path("runs/embeddings.npz"),
    show_default=True,
    callback=_of_known_kind,
    help="Where to write: an .npz file (names, embeddings) or a .parquet file (name, embedding).",
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Skip and list files that cannot be read, instead of stopping.",
)
def embed(**options: Any) -> int:
    """Embed IMAGES, which are files or folders, and write the embeddings with the images' names.

    Images are prepared as the checkpoint, or the card of an exported file, says.
    """
    return call("embed:embed", check=not options["checkpoint"], **options)


@cli.group(
    "store",
    cls=StageGroup,
    section="Look after it",
    line="Inspect, check, repair or clean up the feature store.",
    example="mvmr store info",
)
def store() -> None:
    """Inspect, check or repair the feature store, or clean up after abandoned runs."""


@store.command("info", cls=StageCommand, example="mvmr store info")
@experiment_options
@data_option
@click.argument("path", required=False)
def store_info(**options: Any) -> int:
    """Show the features stored for the active data set, or in the store at PATH."""
    return call("store_info:store_info", check=options["path"] is None, **options)


@store.command("verify", cls=StageCommand, example="mvmr store verify --repair")
@experiment_options
@data_option
@click.option("--repair", "mend", is_flag=True, help="Rebuild the damaged files, and only those.")
@click.option(
    "--recompute",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Also compute N rows of every feature again, and compare them with what is stored.",
)
@click.argument("path", required=False)
def store_verify(**options: Any) -> int:
    """Read every tar and chunk, and list damaged and missing files."""
    check = options["mend"] or options["path"] is None
    return call("store_verify:store_verify", check=check, **options)


@store.command("select", cls=StageCommand, example="mvmr store select")
@experiment_options
@data_option
def store_select(**options: Any) -> int:
    """Check the experiment's shards and features, and record the features' fingerprints.

    Two small files separate the experiment from the shared store. Training depends on the
    features that its objective names, evaluation on all features of the experiment, and neither
    on what other experiments keep in the same store.
    """
    return call("store_select:store_select", **options)


@store.command("look", cls=StageCommand, example="mvmr store look", hidden=True)
@experiment_options
@data_option
def store_look(**options: Any) -> int:
    """List the images of the active data set. DVC runs this first, and shards when they change."""
    return call("store_look:store_look", **options)


@store.command("keep", cls=StageCommand, example="mvmr store keep", hidden=True)
@experiment_options
def store_keep(**options: Any) -> int:
    """Keep the results of the active run from DVC's checkouts. DVC runs this last."""
    return call("store_keep:store_keep", **options)


@store.command("clean", cls=StageCommand, example="mvmr store clean --days 30 --remove")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    help="Select only what was last used at least this many days ago.",
)
@click.option("--remove", is_flag=True, help="Remove it instead of only listing it.")
@data_option
@output_options
def store_clean(**options: Any) -> int:
    """List or remove runs and extractions that were stopped, and superseded features.

    What is still being worked on is never removed.
    """
    return call("store_clean:store_clean", **options)


@cli.command(
    "completion",
    cls=StageCommand,
    section="Look after it",
    line="Print a script that makes a shell complete commands and names.",
    example='eval "$(mvmr completion bash)"',
)
@click.argument("shell", metavar="SHELL", type=OneOf("shell", SHELLS))
def completion_script(shell: str) -> None:
    """Print a script for SHELL that completes commands, options and names.

    Names are those of configs, features, protocols and runs. bash: add the example to ~/.bashrc.
    zsh: add it to ~/.zshrc, with zsh for bash. fish: run
    `mvmr completion fish > ~/.config/fish/completions/mvmr.fish`.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is not None:
        click.echo(found(cli, {}, "mvmr", "_MVMR_COMPLETE").source())
