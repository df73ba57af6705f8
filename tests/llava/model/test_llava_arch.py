"""The path of an image through our own classes: shapes, conventions, errors, training set-up."""

from types import SimpleNamespace

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.checkpoint import save_projector
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from tests.stage_listener import Heard
from tests.tiny import llava_classes, tiny_anyres_llava, tiny_images, tiny_llava, tiny_llm_config, tiny_tower_folder
from visionzip import visionzip
from visionzip.core.stages import listening

IMG = IMAGE_TOKEN_INDEX
PATCHES = 16


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("square")).requires_grad_(False)


@pytest.fixture(scope="module")
def anyres(tmp_path_factory):
    return tiny_anyres_llava(tmp_path_factory.mktemp("anyres")).requires_grad_(False)


def prepare(model, ids, images, mask=None, labels=None, position_ids=None, **extra):
    return model.prepare_inputs_labels_for_multimodal(ids, position_ids, mask, None, labels, images, **extra)


def test_early_returns_hand_the_arguments_back(square, tmp_path):
    ids, mask, labels = torch.tensor([[1, 2, 3]]), torch.ones(1, 3), torch.tensor([[1, 2, 3]])
    cache = object()
    for images, row in ((None, ids), (tiny_images(1), ids[:, :1])):
        out = square.prepare_inputs_labels_for_multimodal(row, None, mask, cache, labels, images)
        assert out[0] is row
        assert out[1:] == (None, mask, cache, None, labels)
    config_class, model_class = llava_classes("llama")
    text = model_class(config_class(**tiny_llm_config()))
    assert text.get_vision_tower() is None
    assert prepare(text, ids, tiny_images(1))[0] is ids


def test_a_prompt_of_one_image_is_no_decoding_step(square):
    out = prepare(square, torch.tensor([[IMG]]), tiny_images(1))
    assert out[0] is None
    assert out[4].shape == (1, PATCHES, 48)


def test_what_was_none_stays_none(square):
    ids = torch.tensor([[1, IMG, 3]])
    out = prepare(square, ids, tiny_images(1))
    assert [x is None for x in out] == [True, True, True, True, False, True]
    out = prepare(square, ids, tiny_images(1), torch.ones(1, 3, dtype=torch.long), ids.clone(), torch.zeros(1, 3))
    assert [x is None for x in out] == [True, False, False, True, False, False]
    assert out[2].dtype == torch.long
    assert out[1].tolist() == [list(range(PATCHES + 2))]
    assert out[5].tolist() == [[1] + [IGNORE_INDEX] * PATCHES + [3]]


def test_features_land_where_the_image_token_was(square):
    ids = torch.tensor([[1, IMG, 3]])
    embeds = prepare(square, ids, tiny_images(1))[4]
    table = square.get_model().embed_tokens.weight
    torch.testing.assert_close(embeds[0, 0], table[1])
    torch.testing.assert_close(embeds[0, 1:-1], square.encode_images(tiny_images(1))[0])
    torch.testing.assert_close(embeds[0, -1], table[3])


def test_tensor_and_list_give_the_same(square):
    images, ids = tiny_images(2), torch.tensor([[1, IMG, 3], [IMG, 5, 6]])
    want = prepare(square, ids, images)[4]
    for form in (list(images), [image[None] for image in images], images[:, None]):
        torch.testing.assert_close(prepare(square, ids, form)[4], want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_on_a_float_model(square, dtype):
    """lmms-eval casts images to float16 whatever the model is."""
    ids = torch.tensor([[1, IMG, 3]])
    embeds = prepare(square, ids, tiny_images(1).to(dtype))[4]
    assert embeds.dtype == torch.float32
    assert square(ids, images=tiny_images(1).to(dtype)).logits.dtype == torch.float32


def test_batch_of_images_is_never_packed(anyres):
    """4-D images: one tile each, no newline, whatever the merge type."""
    assert prepare(anyres, torch.tensor([[1, IMG]]), tiny_images(1))[4].shape[1] == 1 + PATCHES


@pytest.mark.parametrize(
    ("merge", "tiles", "size", "tokens"),
    [
        ("spatial_unpad", 1, (50, 50), PATCHES + 1),
        ("spatial_unpad", 5, (112, 112), PATCHES + 8 * 9),
        ("spatial_unpad", 5, (100, 75), PATCHES + 6 * 9),
        ("spatial", 1, (50, 50), PATCHES),
        ("spatial", 5, (100, 75), 5 * PATCHES),
        ("flat", 5, (100, 75), 5 * PATCHES),
    ],
)
def test_tokens_per_image(anyres, monkeypatch, merge, tiles, size, tokens):
    monkeypatch.setattr(anyres.config, "mm_patch_merge_type", merge)
    (sequence,) = anyres.image_sequences([tiny_images(tiles)], [size])
    assert sequence.shape == (tokens, 48)


def test_mixed_list_of_tiles(anyres):
    images = [tiny_images(5, seed=1), tiny_images(1, seed=2)[0], tiny_images(3, seed=3)]
    sizes = [(112, 112), (50, 50), (112, 40)]
    together = anyres.image_sequences(images, sizes)
    alone = [anyres.image_sequences([image], [size])[0] for image, size in zip(images, sizes, strict=True)]
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [None, []])
def test_tiles_without_size(anyres, sizes):
    with pytest.raises(ValueError, match=r"image 0 has 5 tiles: pass image_sizes"):
        anyres.image_sequences([tiny_images(5)], sizes)


def test_tiles_that_do_not_fit_the_size(anyres):
    with pytest.raises(ValueError, match="but got 4 tiles; check that image_sizes and images belong together"):
        anyres.image_sequences([tiny_images(4)], [(112, 112)])


def test_tiles_without_a_layout(anyres, monkeypatch):
    monkeypatch.setattr(anyres.config, "image_aspect_ratio", "anyres_max_9")
    with pytest.raises(NotImplementedError, match="image_aspect_ratio is 'anyres_max_9'"):
        anyres.image_sequences([tiny_images(5)], [(112, 112)])


def test_wrong_number_of_images(square):
    with pytest.raises(ValueError, match="row 0 holds 2 image tokens but got 1 images"):
        square(torch.tensor([[1, IMG, IMG]]), images=tiny_images(1))
    with pytest.raises(ValueError, match="got 3 images"):
        square(torch.tensor([[1, IMG, 4]]), images=tiny_images(3))


def test_no_image_at_all(square):
    with pytest.raises(ValueError, match="row 0 holds 1 image tokens but got 0 images"):
        square(torch.tensor([[1, IMG, 4]]), images=[])


def test_video_is_refused(square):
    with pytest.raises(NotImplementedError, match="video"):
        prepare(square, torch.tensor([[1, IMG]]), tiny_images(1), modalities=["video"])
    prepare(square, torch.tensor([[1, IMG]]), tiny_images(1), modalities=["image"])


def test_start_end_tokens_cannot_be_tuned_with_the_projector_alone(square, monkeypatch):
    monkeypatch.setattr(square.config, "tune_mm_mlp_adapter", True, raising=False)
    monkeypatch.setattr(square.config, "mm_use_im_start_end", True)
    with pytest.raises(NotImplementedError, match="mm_use_im_start_end"):
        prepare(square, torch.tensor([[1, IMG]]), tiny_images(1))


def test_model_without_tower_says_so():
    config_class, model_class = llava_classes("llama")
    with pytest.raises(ValueError, match="no mm_vision_tower"):
        model_class(config_class(**tiny_llm_config())).encode_images(tiny_images(1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_and_length_of_the_config(square, monkeypatch, side):
    monkeypatch.setattr(square.config, "tokenizer_padding_side", side, raising=False)
    monkeypatch.setattr(square.config, "tokenizer_model_max_length", 18, raising=False)
    ids = torch.tensor([[1, IMG, 3, 4, 5], [7, 8, 9, 0, 0]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    out = prepare(square, ids, tiny_images(1), mask, ids.clone())
    assert out[4].shape[1] == 18
    assert out[5][0].tolist() == [1] + [IGNORE_INDEX] * 16 + [3]
    assert out[2][1].tolist() == ([1] * 3 + [0] * 15 if side == "right" else [0] * 15 + [1] * 3)


def test_truncation_that_removes_every_label(square, monkeypatch):
    monkeypatch.setattr(square.config, "tokenizer_model_max_length", 17, raising=False)
    ids = torch.tensor([[1, IMG, 3]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 3]])
    square.train()
    try:
        with pytest.raises(ValueError, match="row 0 has 18 tokens with its images; cut to 17"):
            square(ids, images=tiny_images(1), labels=labels)
    finally:
        square.eval()
    prepare(square, ids, tiny_images(1), labels=labels)  # evaluation only warns


# --- training set-up


def text_model(**extra):
    config_class, model_class = llava_classes("llama")
    return model_class(config_class(**tiny_llm_config(), **extra))


def model_args(tower, **extra):
    return SimpleNamespace(
        **{
            "vision_tower": str(tower),
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "mm_patch_merge_type": "flat",
            "mm_projector_type": "mlp2x_gelu",
            "pretrain_mm_mlp_adapter": None,
        }
        | extra
    )


def test_initialize_vision_modules(tmp_path):
    tower = tiny_tower_folder(tmp_path / "tower")
    model = text_model()
    model.get_model().initialize_vision_modules(model_args(tower, mm_patch_merge_type="spatial_unpad"))
    config = model.config
    assert config.mm_vision_tower == str(tower)
    assert (config.mm_hidden_size, config.use_mm_proj, config.mm_projector_type) == (32, True, "mlp2x_gelu")
    assert (config.mm_vision_select_layer, config.mm_vision_select_feature) == (-2, "patch")
    assert config.mm_patch_merge_type == "spatial_unpad"
    assert model.get_model().image_newline.shape == (48,)
    assert model.get_model().image_newline.std() < 1
    assert model.get_vision_tower().is_loaded
    assert all(p.requires_grad for p in model.get_model().mm_projector.parameters())
    assert not any(p.requires_grad for p in model.get_vision_tower().parameters())
    assert model(torch.tensor([[1, IMG, 2]]), images=tiny_images(1)).logits.shape == (1, 18, 320)


def test_initialize_keeps_what_is_there(tmp_path):
    model = tiny_llava(tmp_path)
    projector, tower = model.get_model().mm_projector.requires_grad_(False), model.get_vision_tower()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.get_model().initialize_vision_modules(model_args(tmp_path / "tower", mm_vision_select_layer=-3))
    assert model.get_model().mm_projector is projector
    assert all(p.requires_grad for p in projector.parameters())
    assert model.get_vision_tower() is tower
    assert tower.select_layer == -3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_initialize_with_another_tower_replaces_it(tmp_path):
    model = tiny_llava(tmp_path)
    other = tiny_tower_folder(tmp_path / "other", seed=9)
    model.get_model().initialize_vision_modules(model_args(other))
    assert model.get_vision_tower().vision_tower_name == str(other)
    want = CLIPVisionTower(str(other), SimpleNamespace())
    assert torch.equal(model.get_vision_tower()(tiny_images(1)), want(tiny_images(1)))


def test_initialize_honours_the_compressor_of_the_config(tmp_path):
    tower = tiny_tower_folder(tmp_path / "tower")
    model = text_model(mm_compressor={"method": "visionzip", "dominant": 5, "contextual": 2})
    model.get_model().initialize_vision_modules(model_args(tower))
    assert model.encode_images(tiny_images(1)).shape == (1, 7, 48)


def test_fsdp_hides_the_tower_in_a_list(tmp_path):
    model = text_model()
    model.get_model().initialize_vision_modules(model_args(tiny_tower_folder(tmp_path / "tower")), fsdp=["full_shard"])
    assert isinstance(model.get_model().vision_tower, list)
    assert model.get_vision_tower() is model.get_model().vision_tower[0]
    assert not [name for name, _ in model.named_parameters() if "vision_tower" in name]


def test_pretrained_projector_is_loaded(tmp_path):
    source = tiny_llava(tmp_path)
    save_projector(source, tmp_path / "mm_projector.bin")
    model = text_model()
    arguments = model_args(tmp_path / "tower", pretrain_mm_mlp_adapter=str(tmp_path / "mm_projector.bin"))
    model.get_model().initialize_vision_modules(arguments)
    for got, want in zip(
        model.get_model().mm_projector.parameters(), source.get_model().mm_projector.parameters(), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("change", ["shape", "missing"])
def test_a_projector_file_that_does_not_fit_is_named(tmp_path, change):
    source = tiny_llava(tmp_path)
    state = {k: v for k, v in source.state_dict().items() if "mm_projector" in k}
    key = "model.mm_projector.2.weight"
    state = state | {key: torch.zeros(3, 3)} if change == "shape" else {k: v for k, v in state.items() if k != key}
    torch.save(state, tmp_path / "mm_projector.bin")
    arguments = model_args(tmp_path / "tower", pretrain_mm_mlp_adapter=str(tmp_path / "mm_projector.bin"))
    with pytest.raises(ValueError, match=r"mm_projector\.bin do not fit .*2\.weight"):
        text_model().get_model().initialize_vision_modules(arguments)


@pytest.mark.parametrize(
    ("images", "sizes", "message"),
    [
        (torch.zeros(3, 56, 56), None, r"got \[3, 56, 56\]; a single picture needs a batch axis"),
        (["photo.jpg"], None, "image 0 must be a tensor .* got str"),
        ([torch.zeros(56, 56)], None, r"image 0 must be a tensor .* got \[56, 56\]"),
        ([torch.zeros(3, 56, 56)], (100, 100), r"one \(width, height\) per image, got \(100, 100\)"),
    ],
)
def test_images_of_another_kind_are_refused(square, images, sizes, message):
    with pytest.raises(ValueError, match=message):
        square.image_sequences(images, sizes)


def test_a_mask_of_another_length_is_refused(square):
    with pytest.raises(ValueError, match=r"shape of the ids, \[1, 3\]; got \[1, 2\]"):
        square.generate(torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 2), max_new_tokens=1)


class Vocabulary:
    """As much of a tokenizer as adding tokens takes."""

    def __init__(self, size):
        self.tokens = [str(i) for i in range(size)]

    def __len__(self):
        return len(self.tokens)

    def add_tokens(self, tokens, special_tokens):
        assert special_tokens
        new = [token for token in tokens if token not in self.tokens]
        self.tokens += new
        return len(new)


def tokenizer_args(**extra):
    names = ("mm_use_im_patch_token", "mm_use_im_start_end", "tune_mm_mlp_adapter", "pretrain_mm_mlp_adapter")
    return SimpleNamespace(**(dict.fromkeys(names, False) | extra))


def test_no_marker_tokens_no_change(tmp_path):
    model, vocabulary = text_model(), Vocabulary(320)
    model.initialize_vision_tokenizer(tokenizer_args(), vocabulary)
    assert len(vocabulary) == model.get_input_embeddings().num_embeddings == 320


def test_marker_rows_are_the_mean(tmp_path):
    model, vocabulary = text_model(), Vocabulary(320)
    old = [table.weight.clone() for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    arguments = tokenizer_args(mm_use_im_patch_token=True, mm_use_im_start_end=True, tune_mm_mlp_adapter=True)
    model.initialize_vision_tokenizer(arguments, vocabulary)
    assert vocabulary.tokens[-3:] == ["<im_patch>", "<im_start>", "<im_end>"]
    for table, before in zip((model.get_input_embeddings(), model.get_output_embeddings()), old, strict=True):
        assert table.weight.shape[0] == 323
        assert torch.equal(table.weight[:320], before)
        torch.testing.assert_close(table.weight[320:], before.mean(0).expand(3, -1))
    assert model.get_input_embeddings().weight.requires_grad
    assert not model.get_output_embeddings().weight.requires_grad


def test_rows_to_spare_are_used_not_cut(tmp_path):
    """A table padded beyond the vocabulary keeps its size."""
    model, vocabulary = text_model(), Vocabulary(300)
    model.initialize_vision_tokenizer(tokenizer_args(mm_use_im_patch_token=True), vocabulary)
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == 320
    torch.testing.assert_close(weight[300], weight[:300].mean(0))


@pytest.mark.parametrize("whole", [True, False])
def test_marker_rows_from_a_projector_file(tmp_path, whole):
    rows = torch.randn(322, 48)
    file = tmp_path / "mm_projector.bin"
    torch.save(
        {"model.mm_projector.0.bias": torch.zeros(1), "model.embed_tokens.weight": rows if whole else rows[-2:]}, file
    )
    model = text_model()
    arguments = tokenizer_args(mm_use_im_start_end=True, pretrain_mm_mlp_adapter=str(file))
    model.initialize_vision_tokenizer(arguments, Vocabulary(320))
    assert torch.equal(model.get_input_embeddings().weight[320:], rows[-2:])


def test_marker_rows_of_another_shape(tmp_path):
    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.bias": torch.zeros(1), "model.embed_tokens.weight": torch.zeros(5, 48)}, file)
    with pytest.raises(ValueError, match=r"\[5, 48\]; expected \[322, 48\]"):
        text_model().initialize_vision_tokenizer(
            tokenizer_args(mm_use_im_start_end=True, pretrain_mm_mlp_adapter=str(file)), Vocabulary(320)
        )


def test_a_projector_file_without_marker_rows_is_named(tmp_path):
    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.bias": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"mm_projector\.bin holds no embeddings of <im_start>"):
        text_model().initialize_vision_tokenizer(
            tokenizer_args(mm_use_im_start_end=True, pretrain_mm_mlp_adapter=str(file)), Vocabulary(320)
        )


@pytest.mark.parametrize("zipped", [False, True])
def test_the_way_of_an_image_is_marked_by_stages(tmp_path, zipped):
    model = tiny_anyres_llava(tmp_path)
    if zipped:
        visionzip(model, 5, 2)
    heard = Heard()
    with listening(heard), torch.no_grad():
        model(torch.tensor([[1, IMG, 9]]), images=[tiny_images(3)], image_sizes=[(112, 50)])
    inner = [name for name in heard.names if name in ("vision", "project", "pack", "splice")]
    assert inner == ["vision", "project", "pack", "splice"]


def test_rows_of_embeddings_are_the_batch_without_padding(square):
    ids = torch.tensor([[0, 1, IMG, 7], [1, 5, 6, 8]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    images = tiny_images(1)
    rows = square.embed_rows(ids, mask, square.image_sequences(images))
    _, _, expanded, _, embeds, _ = prepare(square, ids, images, mask)
    for row, whole, keep in zip(rows, embeds, expanded.bool(), strict=True):
        assert torch.equal(row, whole[keep])


def test_tiles_may_be_encoded_by_somebody_else(anyres):
    """A captured graph takes the place of `encode_tiles`: it is given all tiles at once, whatever form they came in."""
    images, given = [tiny_images(5), tiny_images(1, seed=1)], []

    def encode(tiles):
        given.append(len(tiles))
        return anyres.encode_tiles(tiles)

    sizes = [(112, 112), (56, 56)]
    wanted = anyres.image_sequences(images, sizes)
    assert all(map(torch.equal, anyres.image_sequences(images, sizes, encode=encode), wanted))
    anyres.image_sequences(tiny_images(2), encode=encode)
    assert given == [6, 2]
