"""From a finished run to a checkpoint others can load.

python -m llava.release merge checkpoints/mini-zip --base playground/miniature/llava-mini-v1.5 --out runs/mini-full
python -m llava.release to-hf runs/mini-full --out runs/mini-hf
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import HfApi

from llava.release import publish as publishing
from llava.release.extract_projector import extract_projector
from llava.release.from_hf import from_hf
from llava.release.manifest import verify as verify_release
from llava.release.manifest import write_manifest
from llava.release.merge import merge as merge_tuned
from llava.release.model_card import write_card
from llava.release.shards import SHARD_GB
from llava.release.to_hf import to_hf

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)

Out = Annotated[Path, typer.Option(help="New folder to write.")]
Shard = Annotated[float, typer.Option(help="Size of a weight file in 10^9 bytes.")]
Folder = Annotated[Path, typer.Argument(help="Folder of the release.")]
Base = Annotated[str | None, typer.Option(help="Base to load it over: for a projector or LoRA release.")]
Device = Annotated[str, typer.Option(help="Where the probe runs: cpu or cuda.")]
Results = Annotated[Path | None, typer.Option(help="Folder of evaluation records (of llava.eval.grid).")]
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
    epilog="Example: python -m llava.release extract playground/miniature/llava-mini-v1.5 --out runs/projector"
)
def extract(
    source: Annotated[str, typer.Argument(help="Full checkpoint, projector run or LoRA run.")], out: Out
) -> None:
    """Write the projector alone: mm_projector.bin, mm_projector.safetensors, config.json."""
    with _told():
        typer.echo(f"wrote {extract_projector(source, out)}")


@app.command(
    epilog="Example: python -m llava.release merge checkpoints/mini-zip --base playground/miniature/llava-mini-v1.5 "
    "--out checkpoints/mini-full"
)
def merge(
    tuned: Annotated[str, typer.Argument(help="Projector run (mm_projector.bin, config.json) or LoRA run.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of the model it was trained on.")],
    out: Out,
    shard_gb: Shard = SHARD_GB,
    tower: Annotated[str | None, typer.Option(help="mm_vision_tower to write, e.g. a hub id.")] = None,
) -> None:
    """Lay a tuned projector or a LoRA run over its base: one full checkpoint in LLaVA's layout."""
    with _told():
        typer.echo(f"wrote {merge_tuned(tuned, base, out, shard_gb, tower)}")


@app.command(
    "to-hf", epilog="Example: python -m llava.release to-hf playground/miniature/llava-mini-v1.5 --out runs/mini-hf"
)
def export(
    source: Annotated[str, typer.Argument(help="Full checkpoint in LLaVA's layout.")],
    out: Out,
    conv_mode: Annotated[str | None, typer.Option(help="Style of the chat template; default: by family.")] = None,
    shard_gb: Shard = SHARD_GB,
) -> None:
    """Export to transformers' own format (llava, or llava_next for anyres)."""
    with _told():
        typer.echo(f"wrote {to_hf(source, out, conv_mode, shard_gb)}")


@app.command(
    "from-hf", epilog="Example: python -m llava.release from-hf llava-hf/llava-1.5-7b-hf --out checkpoints/back"
)
def bring_back(
    source: Annotated[str, typer.Argument(help="llava or llava_next checkpoint of transformers.")],
    out: Out,
    shard_gb: Shard = SHARD_GB,
) -> None:
    """Write a checkpoint of transformers' format in LLaVA's layout."""
    with _told():
        typer.echo(f"wrote {from_hf(source, out, shard_gb)}")


@app.command(epilog="Example: python -m llava.release card checkpoints/mini-full --repo me/mini --license apache-2.0")
def card(
    folder: Folder,
    repo: Annotated[str, typer.Option(help="owner/name on the hub.")],
    licence: Annotated[str | None, typer.Option("--license", help="Licence of the base, as the hub names it.")] = None,
    base_model: BaseModel = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Hub id of a data set; may be repeated.")] = None,
    results: Results = None,
) -> None:
    """Write README.md: front matter, use, recipe, results, limits."""
    with _told():
        typer.echo(f"wrote {write_card(folder, repo, licence, base_model, dataset or (), results)}")


@app.command(epilog="Example: python -m llava.release manifest checkpoints/mini-full --results results/miniature")
def manifest(
    folder: Folder,
    base: Base = None,
    base_model: BaseModel = None,
    results: Results = None,
    dtype: Annotated[str, typer.Option(help="Precision of the probe: float32, float16 or bfloat16.")] = "float32",
    device: Device = "cpu",
) -> None:
    """Write manifest.json: files, origin, metrics, and a few logits of one fixed question."""
    with _told():
        typer.echo(f"wrote {write_manifest(folder, base, base_model, results, dtype, device)}")


@app.command(epilog="Example: python -m llava.release verify checkpoints/mini-full")
def verify(folder: Folder, base: Base = None, device: Device = "cpu") -> None:
    """Check every hash, load the release back, and compare its logits with the recorded ones."""
    with _told():
        checked = verify_release(folder, base, device)
        typer.echo(f"{folder}: {len(checked['files'])} files as listed, recorded logits reproduced")


@app.command(epilog="Example: python -m llava.release publish checkpoints/mini-full --repo me/mini --upload")
def publish(
    folder: Folder,
    repo: Annotated[str, typer.Option(help="owner/name on the hub.")],
    upload: Annotated[bool, typer.Option("--upload/--dry-run", help="Really send it; needs HF_TOKEN.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    base: Base = None,
    device: Device = "cpu",
) -> None:
    """Check a release and upload it to the hub. Reads the environment variable HF_TOKEN, and never shows it."""
    with _told():
        hub = _hub(HfApi) if upload else None
        plan = publishing.publish(folder, repo, hub, private, base, device)
        for name in plan.files:
            typer.echo(f"  {name}")
        did = "sent" if upload else "dry run, nothing sent (--upload sends; it needs HF_TOKEN):"
        typer.echo(f"{did} {len(plan.files)} files, {plan.size / 1e6:.1f} MB, to {plan.repo}")


def _hub(client: Callable[..., publishing.Hub]) -> publishing.Hub:
    """The hub's client with the token of the environment.

    Raises:
        ValueError: the variable is not set.
    """
    token = os.environ.get(publishing.TOKEN_VARIABLE)
    if not token:
        raise ValueError(
            f"--upload needs a token with write access in the environment variable {publishing.TOKEN_VARIABLE} "
            f"(https://huggingface.co/settings/tokens)"
        )
    return client(token=token)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    app()
