"""From a finished run to a checkpoint others can load.

python -m llava.release merge checkpoints/mini-zip --base playground/miniature/llava-mini-v1.5 --out runs/mini-release
python -m llava.release to-hf runs/mini-release --out runs/mini-hf

Commands import what they need when they run: `--help` waits for no torch.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava.release import SHARD_GB

if TYPE_CHECKING:
    from llava.release.publish import Hub


def _example(*lines: str) -> str:
    """Lines for a page of help; the mark in front keeps it from filling them up to one paragraph."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


EXAMPLES = _example(
    "python -m llava.release merge checkpoints/mini-zip --base playground/miniature/llava-mini-v1.5 "
    "--out checkpoints/mini-release",
    "python -m llava.release to-hf checkpoints/mini-release --out checkpoints/mini-hf",
)
app = typer.Typer(
    help="From a finished run to a checkpoint others can load.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Out = Annotated[Path, typer.Option(help="New folder to write.")]
Shard = Annotated[float, typer.Option(help="Size of a weight file in 10^9 bytes.")]
Folder = Annotated[Path, typer.Argument(help="Folder of the release.")]
Base = Annotated[str | None, typer.Option(help="Base to load it over: for a projector or LoRA release.")]
Device = Annotated[str, typer.Option(help="Where the probe runs: cpu or cuda.")]
Results = Annotated[
    Path | None,
    typer.Option(help="Records of llava.eval.grid; those of these weights are taken."),
]
BaseModel = Annotated[str | None, typer.Option(help="Hub id of the base; default: as run.json has it.")]


@contextmanager
def _told() -> Iterator[None]:
    """A refusal as one line, not as a traceback."""
    try:
        yield
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command(
    epilog=_example(
        "python -m llava.release extract playground/miniature/llava-mini-v1.5 --out checkpoints/mini-projector"
    )
)
def extract(
    source: Annotated[str, typer.Argument(help="Full checkpoint, projector run or LoRA run.")], out: Out
) -> None:
    """Write the projector alone: mm_projector.bin, mm_projector.safetensors, config.json."""
    from llava.release.extract_projector import extract_projector

    with _told():
        typer.echo(f"wrote {extract_projector(source, out)}")


@app.command(
    epilog=_example(
        "python -m llava.release merge checkpoints/mini-zip --base playground/miniature/llava-mini-v1.5 "
        "--out checkpoints/mini-release"
    )
)
def merge(
    tuned: Annotated[str, typer.Argument(help="Projector run (mm_projector.bin, config.json) or LoRA run.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of the model it was trained on.")],
    out: Out,
    shard_gb: Shard = SHARD_GB,
    tower: Annotated[str | None, typer.Option(help="mm_vision_tower to write, e.g. a hub id.")] = None,
) -> None:
    """Lay a tuned projector or a LoRA run over its base: one full checkpoint in LLaVA's layout."""
    from llava.release.merge import merge as merge_tuned

    with _told():
        typer.echo(f"wrote {merge_tuned(tuned, base, out, shard_gb, tower)}")


@app.command(
    "to-hf",
    epilog=_example("python -m llava.release to-hf playground/miniature/llava-mini-v1.5 --out checkpoints/mini-hf"),
)
def export(
    source: Annotated[str, typer.Argument(help="Full checkpoint in LLaVA's layout.")],
    out: Out,
    conv_mode: Annotated[str | None, typer.Option(help="Style of the chat template; default: by family.")] = None,
    shard_gb: Shard = SHARD_GB,
) -> None:
    """Export to transformers' own format (llava, or llava_next for anyres)."""
    from llava.release.to_hf import to_hf

    with _told():
        typer.echo(f"wrote {to_hf(source, out, conv_mode, shard_gb)}")


@app.command(
    "from-hf",
    epilog=_example("python -m llava.release from-hf llava-hf/llava-1.5-7b-hf --out checkpoints/llava-1.5-7b"),
)
def bring_back(
    source: Annotated[str, typer.Argument(help="llava or llava_next checkpoint of transformers.")],
    out: Out,
    shard_gb: Shard = SHARD_GB,
) -> None:
    """Write a checkpoint of transformers' format in LLaVA's layout."""
    from llava.release.from_hf import from_hf

    with _told():
        typer.echo(f"wrote {from_hf(source, out, shard_gb)}")


@app.command(
    epilog=_example(
        "python -m llava.release card checkpoints/mini-release --repo me/mini --license apache-2.0 --base-model me/base"
    )
)
def card(
    folder: Folder,
    repo: Annotated[str, typer.Option(help="owner/name on the hub.")],
    licence: Annotated[str | None, typer.Option("--license", help="Licence of the base, as the hub names it.")] = None,
    base_model: BaseModel = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Hub id of a data set; may be repeated.")] = None,
    results: Results = None,
) -> None:
    """Write README.md: front matter, use, recipe, results, limits."""
    from llava.release.model_card import write_card

    with _told():
        typer.echo(f"wrote {write_card(folder, repo, licence, base_model, dataset or (), results)}")


@app.command(epilog=_example("python -m llava.release manifest checkpoints/mini-release --base-model me/base"))
def manifest(
    folder: Folder,
    base: Base = None,
    base_model: BaseModel = None,
    results: Results = None,
    dtype: Annotated[str, typer.Option(help="Precision of the probe: float32, float16 or bfloat16.")] = "float32",
    device: Device = "cpu",
) -> None:
    """Write manifest.json: files, origin, metrics, and a few logits of one fixed question."""
    from llava.release.manifest import write_manifest

    with _told():
        typer.echo(f"wrote {write_manifest(folder, base, base_model, results, dtype, device)}")


@app.command(epilog=_example("python -m llava.release verify checkpoints/mini-release"))
def verify(folder: Folder, base: Base = None, device: Device = "cpu") -> None:
    """Check every hash, load the release back, and compare its logits with the recorded ones."""
    from llava.release.manifest import verify as verify_release

    with _told():
        checked = verify_release(folder, base, device)
        typer.echo(f"{folder}: {len(checked['files'])} files as listed, recorded logits reproduced")


@app.command(epilog=_example("python -m llava.release publish checkpoints/mini-release --repo me/mini --upload"))
def publish(
    folder: Folder,
    repo: Annotated[str, typer.Option(help="owner/name on the hub.")],
    upload: Annotated[bool, typer.Option("--upload/--dry-run", help="Really send it; needs HF_TOKEN.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    base: Base = None,
    device: Device = "cpu",
) -> None:
    """Check a release and upload it to the hub. Reads the environment variable HF_TOKEN, and never shows it."""
    from huggingface_hub import HfApi

    from llava.release.publish import publish as publish_release

    with _told():
        hub = _hub(HfApi) if upload else None
        plan = publish_release(folder, repo, hub, private, base, device)
        for name in plan.files:
            typer.echo(f"  {name}")
        did = "sent" if upload else "dry run, nothing sent (--upload sends; it needs HF_TOKEN):"
        typer.echo(f"{did} {len(plan.files)} files, {plan.size / 1e6:.1f} MB, to {plan.repo}")


def _hub(client: "Callable[..., Hub]") -> "Hub":
    """The hub's client with the token of the environment.

    Raises:
        ValueError: the variable is not set.
    """
    from llava.release.publish import TOKEN_VARIABLE

    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise ValueError(
            f"--upload needs a token with write access in the environment variable {TOKEN_VARIABLE} "
            f"(https://huggingface.co/settings/tokens)"
        )
    return client(token=token)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    app()
