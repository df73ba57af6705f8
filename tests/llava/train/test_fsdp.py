"""FSDP as configs/accelerate/fsdp.yaml sets it: where it is refused, and that our model computes the same under it.

accelerate shards on GPUs only: on the CPU it stays with plain data parallelism and says nothing. So what it does to a
model (`fsdp2_prepare_model`) is done here by hand, in two gloo processes.
"""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, distributed

from llava.train.train import train
from tests.llava.train.test_train import options
from tests.tiny import tiny_images, tiny_llava

CONFIG = Path(__file__).parents[3] / "configs/accelerate/fsdp.yaml"
WATCHED = ("model.mm_projector.0.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight")


@pytest.mark.parametrize("changes", [{}, {"tune_mm_mlp_adapter": None}])
def test_refused_on_the_cpu(words: list[str], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="on the CPU accelerate shards nothing"):
        train(argv=options(words, **changes))


def batch() -> dict[str, Tensor]:
    ids = torch.tensor([[1, 300, -200, 17, 290, 44], [1, -200, 30, 31, 32, 33]])
    labels = torch.where(torch.arange(6) > 2, ids, -100)
    return {"input_ids": ids, "labels": labels, "images": tiny_images(2)}


def gradients(model: Any, inputs: dict[str, Any], scale: float) -> dict[str, Tensor]:
    supervised = int((batch()["labels"][:, 1:] != -100).sum())
    loss = model(**inputs, loss_only=True, num_items_in_batch=supervised).loss * scale
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in grads.items()}


def model_of(folder: Path) -> Any:
    model = tiny_llava(folder).train()
    model.get_vision_tower().requires_grad_(False)
    return model


def shard(model: Any) -> Any:
    """What `accelerate launch --config_file configs/accelerate/fsdp.yaml` makes of a model."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    said = yaml.safe_load(CONFIG.read_text())["fsdp_config"]
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=said["fsdp_version"],
        auto_wrap_policy=said["fsdp_auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=[said["fsdp_transformer_layer_cls_to_wrap"]],
        reshard_after_forward=said["fsdp_reshard_after_forward"],
        cpu_ram_efficient_loading=said["fsdp_cpu_ram_efficient_loading"],
    )
    state = SimpleNamespace(fsdp_plugin=plugin)
    return fsdp2_prepare_model(
        SimpleNamespace(state=state, mixed_precision="no", is_main_process=False, device=torch.device("cpu")), model
    )


def process(rank: int, folder: Path, port: int) -> None:
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    half = {key: value[rank : rank + 1] for key, value in batch().items()}
    model = shard(model_of(folder))
    sharded = gradients(model, half, scale=2.0)  # FSDP takes the mean over processes
    layer = dict(model.named_parameters())[WATCHED[1]]
    assert type(layer).__name__ == "DTensor" and layer.to_local().numel() == layer.numel() / 2
    whole = gradients(model_of(folder), batch(), scale=1.0)
    assert set(sharded) == set(whole) and set(WATCHED) < set(whole)
    for name, value in whole.items():
        assert torch.allclose(sharded[name], value, rtol=1e-4, atol=1e-6), name
    distributed.destroy_process_group()


@pytest.mark.slow
def test_sharded_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    tiny_llava(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(process, (tmp_path, port), nprocs=2)
