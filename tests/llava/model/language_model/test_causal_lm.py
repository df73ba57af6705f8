"""forward and generate of the three families: batches equal single rows, answers exclude the prompt, training works."""

import copy
import json
import logging
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from tests.tiny import (
    FAMILIES,
    llava_classes,
    tiny_anyres_llava,
    tiny_images,
    tiny_llava,
    tiny_llava_config,
    tiny_llm_config,
)
from visionzip import visionzip

IMG = IMAGE_TOKEN_INDEX
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Every family, anyres with newlines, tower weights in the checkpoint."""
    return {f: tiny_anyres_llava(tmp_path_factory.mktemp(f), f).requires_grad_(False) for f in FAMILIES}


@pytest.fixture
def model(models):
    return models["llama"]


# Rows with images of different tilings, two images in a row, and text only.
ROWS = [
    ([1, 17, 5, IMG, 33, 8, 250, 4, 60], [(5, (112, 112))]),
    ([1, IMG, 9], [(3, (112, 40))]),
    ([1, IMG, 44, IMG, 7, 3], [(1, (50, 50)), (5, (100, 75))]),
    ([1, 99, 98, 97], []),
]


def images_of(rows):
    """(tiles per image, sizes), drawn by position so that a row alone sees the same pixels."""
    found = [(index, k, tiles, size) for index, (_, images) in rows for k, (tiles, size) in enumerate(images)]
    return [tiny_images(tiles, seed=10 * index + k) for index, k, tiles, _ in found], [size for *_, size in found]


def single(index):
    ids, _ = ROWS[index]
    images, sizes = images_of([(index, ROWS[index])])
    return {"images": images or None, "image_sizes": sizes or None}, torch.tensor([ids])


def batched(side):
    width = max(len(ids) for ids, _ in ROWS)
    pads = [[0] * (width - len(ids)) for ids, _ in ROWS]
    pairs = list(zip([ids for ids, _ in ROWS], pads, strict=True))
    ids = torch.tensor([row + pad if side == "right" else pad + row for row, pad in pairs])
    ones = [([1] * len(row), pad) for row, pad in pairs]
    mask = torch.tensor([row + pad if side == "right" else pad + row for row, pad in ones])
    images, sizes = images_of(list(enumerate(ROWS)))
    return {"images": images, "image_sizes": sizes, "attention_mask": mask}, ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inputs", ["left", "right"])
@pytest.mark.parametrize("outputs", ["left", "right"])
def test_batched_logits_equal_one_by_one(models, monkeypatch, family, inputs, outputs):
    model = models[family]
    monkeypatch.setattr(model.config, "tokenizer_padding_side", outputs, raising=False)
    arguments, ids = batched(inputs)
    logits = model(ids, **arguments).logits
    for index, row in enumerate(logits):
        alone_arguments, alone_ids = single(index)
        want = model(alone_ids, **alone_arguments).logits[0]
        got = row[: len(want)] if outputs == "right" else row[-len(want) :]
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("outputs", ["left", "right"])
def test_images_of_different_length_need_no_mask(model, monkeypatch, outputs):
    """Equal rows of ids, unequal rows after expansion: the padding that makes is masked without being asked."""
    monkeypatch.setattr(model.config, "tokenizer_padding_side", outputs, raising=False)
    ids = torch.tensor([[1, IMG, 5], [1, IMG, 5]])
    images, sizes = [tiny_images(5), tiny_images(1, seed=1)], [(112, 112), (50, 50)]
    logits = model(ids, images=images, image_sizes=sizes).logits
    for row, image, size in zip(logits, images, sizes, strict=True):
        want = model(ids[:1], images=[image], image_sizes=[size]).logits[0]
        torch.testing.assert_close(row[: len(want)] if outputs == "right" else row[-len(want) :], want, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_answers_equal_one_by_one(models, family, side):
    model = models[family]
    arguments, ids = batched(side)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    answers = model.generate(ids, **arguments, **settings)
    assert answers.shape == (4, 6)
    for index, answer in enumerate(answers):
        alone_arguments, alone_ids = single(index)
        assert answer.tolist() == model.generate(alone_ids, **alone_arguments, **settings)[0].tolist()
    assert len({tuple(answer.tolist()) for answer in answers}) == 4  # not the same answer everywhere


def test_generation_equals_greedy_decoding_by_forward(model):
    """Against a loop without cache over full forwards."""
    arguments, ids = single(0)
    for _ in range(5):
        token = model(ids, **arguments).logits[0, -1].argmax()
        ids = torch.cat([ids, token[None, None]], dim=1)
    arguments, prompt = single(0)
    answer = model.generate(prompt, **arguments, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert answer[0].tolist() == ids[0, prompt.shape[1] :].tolist()


def test_beams_and_sampling_run(model):
    arguments, ids = single(2)
    assert model.generate(ids, **arguments, num_beams=3, max_new_tokens=4).shape == (1, 4)
    sampled = model.generate(ids, **arguments, do_sample=True, num_return_sequences=2, max_new_tokens=4)
    assert sampled.shape[0] == 2


def test_text_only_generation(model):
    ids = torch.tensor([[1, 5, 6], [1, 7, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    answers = model.generate(ids, attention_mask=mask, **settings)
    assert answers[0].tolist() == model.generate(ids[:1], **settings)[0].tolist()
    assert answers[1].tolist() == model.generate(ids[1:, :2], **settings)[0].tolist()
    assert torch.equal(model.generate(input_ids=ids, attention_mask=mask, **settings), answers)


def test_generate_as_lmms_eval_calls_it(model):
    """fp16 images, padding by the tokenizer, position of every keyword."""
    arguments, ids = batched("left")
    arguments["images"] = [image.half() for image in arguments["images"]]
    answers = model.generate(
        ids,
        **arguments,
        pad_token_id=0,
        do_sample=False,
        temperature=0,
        top_p=None,
        num_beams=1,
        max_new_tokens=3,
        use_cache=True,
    )
    assert answers.shape == (4, 3)


def test_generate_refuses_embeddings_and_unfilled_images(model):
    with pytest.raises(NotImplementedError, match="inputs_embeds"):
        model.generate(torch.tensor([[1]]), inputs_embeds=torch.zeros(1, 1, 48))
    with pytest.raises(ValueError, match="no images were given"):
        model.generate(torch.tensor([[1, IMG, 3]]))
    with pytest.raises(ValueError, match="needs token ids"):
        model.generate(images=tiny_images(1))


def test_forward_refuses_unfilled_images(model):
    with pytest.raises(ValueError, match="no images were given"):
        model(torch.tensor([[1, IMG, 3]]))


def test_cached_decoding_steps_ignore_images(model):
    """A client's own loop passes images at every step."""
    arguments, ids = single(0)
    first = model(ids, **arguments, use_cache=True)
    step = model(torch.tensor([[9]]), **arguments, past_key_values=first.past_key_values, use_cache=True)
    whole = model(torch.cat([ids, torch.tensor([[9]])], dim=1), **arguments)
    torch.testing.assert_close(step.logits[0, -1], whole.logits[0, -1], **CLOSE)


def test_loss_is_over_text_labels_only(model):
    arguments, ids = single(0)
    labels = ids.clone()
    labels[0, :5] = IGNORE_INDEX
    out = model(ids, **arguments, labels=labels)
    answer = ids[0, 5:]
    logits = out.logits[0, -len(answer) - 1 : -1]
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(logits, answer))
    assert model(ids, **arguments, labels=labels, return_dict=False)[0] == out.loss
    halved = model(ids, **arguments, labels=labels, num_items_in_batch=2 * len(answer))
    torch.testing.assert_close(halved.loss, out.loss / 2)


def test_hidden_states_have_the_expanded_length(model):
    arguments, ids = single(0)
    out = copy.deepcopy(model)(ids, **arguments, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    assert out.hidden_states[0].shape[1] == out.logits.shape[1]


def test_logits_to_keep(model):
    arguments, ids = single(0)
    torch.testing.assert_close(
        model(ids, **arguments, logits_to_keep=1).logits[0, 0], model(ids, **arguments).logits[0, -1]
    )


# --- training


def gradients(model, **arguments):
    model.zero_grad()
    model(**arguments).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def training_batch():
    arguments, ids = batched("right")
    return arguments | {"input_ids": ids, "labels": torch.where(ids > 0, ids, IGNORE_INDEX)}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_projector_trains(models, family):
    model = copy.deepcopy(models[family]).train()
    model.get_model().mm_projector.requires_grad_(True)
    found = gradients(model, **training_batch())
    assert set(found) == {f"model.mm_projector.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(models, reentrant):
    model = copy.deepcopy(models["llama"]).train()
    model.get_model().mm_projector.requires_grad_(True)
    want = gradients(model, **training_batch())
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    got = gradients(model, **training_batch())
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_text_only_batch_with_dummy_images_reaches_the_projector(models):
    """LLaVA's training rows without image bring a zero image, so that every rank runs tower and projector."""
    model = copy.deepcopy(models["llama"]).train()
    model.get_model().mm_projector.requires_grad_(True)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    images = torch.zeros(2, 3, 56, 56)
    found = gradients(model, input_ids=ids, labels=ids, images=images)
    assert set(found) == {f"model.mm_projector.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")}
    assert all((gradient == 0).all() for gradient in found.values())
    with torch.no_grad():
        torch.testing.assert_close(model(ids, images=images).logits, model(ids).logits)


def test_everything_trains(models):
    model = copy.deepcopy(models["llama"]).requires_grad_(True).train()
    found = gradients(model, **training_batch())
    last = ("encoder.layers.5.", "post_layernorm")
    assert {name for name, _ in model.named_parameters() if not any(key in name for key in last)} == set(found)
    assert found["model.image_newline"].abs().sum() > 0


def test_bfloat16_model(tmp_path):
    model = tiny_llava(tmp_path).to(torch.bfloat16)
    out = model(torch.tensor([[1, IMG, 5]]), images=tiny_images(1), labels=torch.tensor([[1, IMG, 5]]))
    assert out.logits.dtype == torch.bfloat16
    assert out.loss.isfinite()


def test_autocast(models):
    model = copy.deepcopy(models["llama"]).train()
    model.get_model().mm_projector.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**training_batch()).loss
    loss.backward()
    assert model.get_model().mm_projector[0].weight.grad.dtype == torch.float32


# --- copies, files, registration


def test_deepcopy_and_pickle(models):
    arguments, ids = single(0)
    for family, model in models.items():
        want = model(ids, **arguments).logits
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(ids, **arguments).logits, want), family


def test_models_of_one_config_object_do_not_share_what_is_attached(tmp_path):
    config = tiny_llava(tmp_path).config
    model_class = llava_classes("llama")[1]
    dense, zipped = model_class(config), visionzip(model_class(config), 5, 2)
    assert zipped.config.mm_compressor["dominant"] == 5 and zipped.config is zipped.get_model().config
    assert getattr(dense.config, "mm_compressor", None) is None
    assert getattr(config, "mm_compressor", None) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_key_round_trip(models, tmp_path, family):
    """v1.6: tower weights are in the checkpoint, under the public names, and come back from it."""
    model = models[family]
    model.save_pretrained(tmp_path / "once")
    keys = set(load_file(tmp_path / "once" / "model.safetensors"))
    tower = "model.vision_tower.vision_tower.vision_model."
    assert f"{tower}pre_layrnorm.weight" in keys
    assert f"{tower}encoder.layers.5.self_attn.k_proj.bias" in keys
    assert {"model.mm_projector.0.weight", "model.mm_projector.2.bias", "model.image_newline"} < keys
    assert keys == set(model.state_dict())

    again, info = type(model).from_pretrained(tmp_path / "once", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    arguments, ids = single(0)
    torch.testing.assert_close(again(ids, **arguments).logits, model(ids, **arguments).logits, rtol=0, atol=0)
    again.save_pretrained(tmp_path / "twice")
    with safe_open(tmp_path / "twice" / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == keys


def test_the_checkpoints_tower_wins_over_the_named_one(models, tmp_path):
    """mm_vision_tower is read for its config only when the checkpoint brings the weights."""
    model = models["llama"]
    model.save_pretrained(tmp_path / "ckpt")
    named = CLIPVisionModel.from_pretrained(model.config.mm_vision_tower)
    again = LlavaLlamaForCausalLM.from_pretrained(tmp_path / "ckpt")
    weight = again.get_vision_tower().vision_tower.vision_model.pre_layrnorm.weight
    torch.testing.assert_close(weight, model.get_vision_tower().vision_tower.vision_model.pre_layrnorm.weight)
    assert not torch.equal(weight, named.pre_layrnorm.weight)


def test_v15_leaves_the_tower_for_later(tmp_path):
    """No tower weights in the file, none missing: load_model brings them from the tower's own folder."""
    model = tiny_llava(tmp_path)
    state = {key: value for key, value in model.state_dict().items() if "vision_tower" not in key}
    model.save_pretrained(tmp_path / "ckpt", state_dict=state)
    again, info = LlavaLlamaForCausalLM.from_pretrained(tmp_path / "ckpt", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tower = again.get_vision_tower()
    assert not tower.is_loaded
    tower.load_model()
    ids = torch.tensor([[1, IMG, 5]])
    named = CLIPVisionModel.from_pretrained(model.config.mm_vision_tower)
    model.get_vision_tower().vision_tower.vision_model.load_state_dict(named.state_dict())
    torch.testing.assert_close(again(ids, images=tiny_images(1)).logits, model(ids, images=tiny_images(1)).logits)


def test_missing_newline_is_reported_and_initialised(models, tmp_path):
    model = models["llama"]
    state = {key: value for key, value in model.state_dict().items() if key != "model.image_newline"}
    model.save_pretrained(tmp_path, state_dict=state)
    again, info = LlavaLlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"model.image_newline"}
    assert 0.05 < again.get_model().image_newline.std() < 0.4  # N(0, 1/48): 0.14


def test_a_new_model_has_no_uninitialised_memory(tmp_path):
    from tests.tiny import tiny_tower_folder

    config = tiny_llava_config(tiny_tower_folder(tmp_path / "t"), mm_patch_merge_type="spatial_unpad")
    newline = LlavaLlamaForCausalLM(config).get_model().image_newline
    assert 0.05 < newline.std() < 0.4


def test_newline_only_with_unpad(tmp_path):
    model = tiny_llava(tmp_path, mm_patch_merge_type="spatial")
    assert not hasattr(model.get_model(), "image_newline")


def test_tied_embeddings(tmp_path):
    model = tiny_llava(tmp_path, "qwen2", tie_word_embeddings=True)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "ckpt")
    assert "lm_head.weight" not in load_file(tmp_path / "ckpt" / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_classes_know_our_names(family):
    config_class, model_class = llava_classes(family)
    config = AutoConfig.for_model(config_class.model_type)
    assert type(config) is config_class
    assert AutoModelForCausalLM._model_mapping[config_class] is model_class


def test_released_config_says_llava(tmp_path, caplog):
    """The released v1.5 config.json, key by key."""
    released = tiny_llm_config() | {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "max_length": 4096,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_resampler_type": None,
        "tune_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad",
        "use_mm_proj": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(released))
    with caplog.at_level(logging.WARNING):
        config = LlavaConfig.from_pretrained(tmp_path)
    assert "instantiate a model of type" not in caplog.text
    assert config.model_type == "llava_llama"
    assert config.mm_vision_tower == "openai/clip-vit-large-patch14-336"
    assert config.mm_resampler_type is None
    assert (config.hidden_size, config.rms_norm_eps) == (48, 1e-05)
    config.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["model_type"] == "llava_llama"
    assert saved["mm_projector_type"] == "mlp2x_gelu"


def test_hugging_face_layout_is_refused(tmp_path):
    hf = {
        "model_type": "llava",
        "text_config": {},
        "vision_config": {},
        "architectures": ["LlavaForConditionalGeneration"],
    }
    (tmp_path / "config.json").write_text(json.dumps(hf))
    with pytest.raises(ValueError, match=r"Hugging Face layout .*LlavaForConditionalGeneration"):
        LlavaConfig.from_pretrained(tmp_path)


def test_device_map_does_not_cut_the_tower(model):
    assert {"CLIPVisionTower", "LlamaDecoderLayer"} <= set(model._no_split_modules)
