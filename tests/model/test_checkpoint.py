"""What is saved is what is loaded; what is not whole is refused."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from relaygr.errors import CorruptData
from relaygr.model import checkpoint
from relaygr.model.config import ModelConfig
from relaygr.model.conformance import Bench, Subject
from relaygr.model.init import new_model
from relaygr.model.interface import RelayModel
from relaygr.model.loading import load_model
from tests.model.models import ITEM_IDS, config, small_model


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(small_model(), tmp_path)
    return tmp_path


def _rewrite(directory, change):
    path = directory / checkpoint.WEIGHTS_FILE
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_loaded_model_scores_like_the_saved_one(saved):
    model, loaded = small_model(), load_model(saved)
    inputs = Bench(Subject(model=model, item_ids=ITEM_IDS), 1).inputs(30)
    benches = [Bench(Subject(model=each, item_ids=ITEM_IDS), 1) for each in (model, loaded)]
    assert torch.equal(*(bench.full(inputs) for bench in benches))
    assert loaded.spec == model.spec


def test_identity_holds_the_digest_of_the_weights_file(saved):
    identity = load_model(str(saved)).spec.identity
    assert identity.weights_digest == hashlib.sha256((saved / checkpoint.WEIGHTS_FILE).read_bytes()).hexdigest()
    assert (identity.layout, identity.normaliser, identity.dtype) == ("paged128-khd-vhd", 200, "float32")


def test_random_models_of_a_seed_are_one_and_of_two_seeds_are_two():
    digests = [small_model(seed=seed).spec.identity.weights_digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_dtype_is_chosen_at_load(saved):
    model = load_model(saved, dtype="bfloat16")
    assert model.spec.identity.dtype == "bfloat16"
    assert model.spec.identity.weights_digest == load_model(saved).spec.identity.weights_digest
    assert model.tokens.user.dtype == torch.bfloat16 and model.scorer.logits.weight.dtype == torch.float32


def test_weights_of_another_shape_are_refused(saved):
    _rewrite(saved, lambda tensors: tensors.update({"tokens.user": torch.zeros(3)}))
    with pytest.raises(CorruptData, match=r"tokens\.user: shape"):
        load_model(saved)


@pytest.mark.parametrize("name", ("tokens.user", checkpoint.VOCABULARY))
def test_missing_weights_are_refused(saved, name):
    _rewrite(saved, lambda tensors: tensors.pop(name))
    with pytest.raises(CorruptData, match=f"{name}: missing"):
        load_model(saved)


def test_weights_of_another_model_are_refused(saved):
    _rewrite(saved, lambda tensors: tensors.update({"extra": torch.zeros(3)}))
    with pytest.raises(CorruptData, match="extra: not a weight"):
        load_model(saved)


def test_vocabulary_out_of_order_is_refused(saved):
    _rewrite(saved, lambda tensors: tensors.update({checkpoint.VOCABULARY: tensors[checkpoint.VOCABULARY].flip(0)}))
    with pytest.raises(CorruptData, match="not sorted"):
        load_model(saved)


@pytest.mark.parametrize("name", (checkpoint.WEIGHTS_FILE, checkpoint.CONFIG_FILE))
def test_torn_files_are_refused(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptData):
        load_model(saved)
    (saved / name).unlink()
    with pytest.raises(CorruptData):
        load_model(saved)


def test_unknown_format_is_refused(saved):
    document = json.loads((saved / checkpoint.CONFIG_FILE).read_text())
    (saved / checkpoint.CONFIG_FILE).write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(CorruptData, match="format 99"):
        load_model(saved)


def test_config_survives_json():
    before = config("silu_u", "bfloat16", alpha=0.7)
    assert ModelConfig.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(
    "change", ({"layers": 0}, {"dtype": "int4"}, {"layer_form": "gelu"}, {"tasks": ()}, {"gap_buckets": 2})
)
def test_config_refuses_what_cannot_be_built(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(config(), **change)


def test_config_refuses_unknown_and_missing_fields():
    values = config().to_json()
    for wrong in ({**values, "rope": 1}, {name: value for name, value in values.items() if name != "layers"}):
        with pytest.raises(ValueError, match="not a model configuration"):
            ModelConfig.from_json(wrong)


def test_vocabulary_lookup_knows_the_ends_and_the_gaps():
    model = small_model()
    asked = np.array([ITEM_IDS[0] - 1, ITEM_IDS[0], ITEM_IDS[0] + 1, ITEM_IDS[-1], ITEM_IDS[-1] + 1, 2**62])
    assert model.item_rows(asked).tolist() == [0, 1, 0, len(ITEM_IDS), 0, 0]
    assert model.known_items(asked).tolist() == [False, True, False, True, False, False]


def test_new_models_are_trainable_and_sort_their_vocabulary():
    model = new_model(config(), ITEM_IDS[::-1], 1)
    assert np.array_equal(model.vocabulary, ITEM_IDS)
    assert all(weight.requires_grad and bool(weight.isfinite().all()) for weight in model.parameters())


def test_a_teams_own_model_is_loaded_by_name():
    model = load_model("tests.model.example_model:make_model")
    assert isinstance(model, RelayModel) and model.spec.tasks == ("click",)


@pytest.mark.parametrize("source", ("nowhere", "json:loads_nothing", "builtins:dict"))
def test_sources_that_give_no_model_are_refused(source):
    with pytest.raises((ValueError, AttributeError)):
        load_model(source)
