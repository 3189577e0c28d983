"""What is stored is what transformers itself reports, for every row, layer, family and dtype."""

import numpy as np
import pytest
import torch

from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.capture import Capture, find_blocks
from actlas.ingest.checkpoint import find_base
from actlas.ingest.conformance import check_conformance, choose_probes
from actlas.ingest.loading import load_base
from actlas.ingest.plan import make_plan
from actlas.ingest.rendering import load_rendering
from actlas.ingest.tokenizing import tokenize
from actlas.store import InvalidInput, Source, create_store, make_task, open_store, verify
from tests.ingest.checkpoints import FAMILIES, bits, byte_tokenizer, ingest_one, load, own_states, tiny_task

BUDGET = 180  # a few prompts a batch, of several padded lengths


def tokens_of(task):
    return tokenize(task, byte_tokenizer(), load_rendering("raw"), None).token_ids


def assert_close(stored, own):
    error = np.linalg.norm(stored - own.numpy(), axis=-1) / np.linalg.norm(own.numpy(), axis=-1)
    assert error.max() <= 1e-6


@pytest.mark.parametrize("tuned", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_stored_row_is_what_the_model_reports_for_that_prompt_alone_and_in_a_padded_batch(
    family, tuned, bases, adapters, root
):
    task, base = tiny_task(23), bases(family)
    adapter = adapters(family) if tuned else None
    create_store(root, batch_tokens=BUDGET)
    entry = ingest_one(root, base, task, adapter)

    model, token_ids = load(base, adapter), tokens_of(task)
    assert entry.example_ids == task.example_ids
    assert len({len(ids) for ids in token_ids}) > 10
    for row, ids in enumerate(token_ids):
        hidden, final = own_states(model, [ids], mask=False)
        assert_close(entry.hidden_states[:, row], hidden[:, 0])
        assert_close(entry.final_norm[row], final[0])
    hidden, final = own_states(model, token_ids)
    assert_close(entry.hidden_states[...], hidden)
    assert_close(entry.final_norm[...], final)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_changes_every_layer_but_the_embedding(family, bases, adapters, root):
    task, base = tiny_task(6), bases(family)
    plain, tuned = ingest_one(root, base, task), ingest_one(root, base, task, adapters(family))
    assert bits(plain.read(0)) == bits(tuned.read(0))
    for layer in plain.layers[1:]:
        assert np.abs(plain.read(layer) - tuned.read(layer)).max() > 1e-3


def test_the_last_layer_is_raw_and_the_final_norm_stands_apart(llama, root, task):
    entry = ingest_one(root, llama, task)
    model = load(llama)
    with torch.no_grad():
        normed = model.base_model.norm(torch.from_numpy(entry.read(3)))
        default = model(input_ids=torch.tensor([tokens_of(task)[0]]), output_hidden_states=True).hidden_states[-1]
    assert_close(entry.final_norm[...], normed)
    assert_close(entry.final_norm[0], default[0, -1])  # transformers' own last entry is after the norm
    assert np.abs(entry.read(3) - entry.final_norm[...]).max() > 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_stored_half_precision_is_bit_for_bit_what_the_model_computed_in_the_same_batch(dtype, bases, root):
    task, base = tiny_task(23), bases("llama", dtype=dtype)
    create_store(root, batch_tokens=BUDGET)
    entry = ingest_one(root, base, task)
    assert entry.identity.dtype == dtype

    model, token_ids = load(base, dtype=dtype), tokens_of(task)
    batches = [
        batch for superblock in make_plan([len(i) for i in token_ids], BUDGET).superblocks for batch in superblock
    ]
    assert len(batches) > 3
    for batch in batches:
        rows = list(batch.rows)
        hidden, final = own_states(model, [token_ids[row] for row in rows], mask=False)
        assert bits(entry.hidden_states[:, rows]) == bits(hidden)
        assert bits(entry.final_norm[rows]) == bits(final)


def test_another_dtype_lives_beside_under_the_same_name_and_the_reader_is_told_of_both(bases, root, task):
    base = bases("llama", dtype="bfloat16")
    half, full = ingest_one(root, base, task), ingest_one(root, base, task, dtype="float32")
    assert (half.model, half.task) == (full.model, full.task)
    assert half.key != full.key
    store = open_store(root)
    with pytest.raises(
        InvalidInput, match=r"2 entries fit.*key or dtype:\n.*dtype=bfloat16.*\n?.*dtype=float32|float32(.|\n)*bfloat16"
    ):
        store.entry(model="base", task="rte")
    assert store.entry(model="base", task="rte", dtype="float32").id == full.id
    assert store.entry(model="base", task="rte", key=half.key[:8]).id == half.id


def test_chosen_layers_are_those_of_an_entry_with_all(llama, root, task):
    everything, some = ingest_one(root, llama, task), ingest_one(root, llama, task, layers="-1,0:2")
    assert some.layers == (0, 1, 3)
    for layer in some.layers:
        assert bits(some.read(layer)) == bits(everything.read(layer))
    assert bits(some.final_norm[...]) == bits(everything.final_norm[...])


def test_values_that_overflow_are_kept_and_counted_and_do_not_stop_the_ingest(tmp_path, root):
    base = tmp_path / "loud"
    model = FAMILIES["llama"]()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e5
    model.half().save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    entry = ingest_one(root, base, tiny_task(9))
    assert entry.nonfinite[:2].sum() == 0
    assert (entry.nonfinite[2] > 0).all()
    assert all(not found.problems for found in verify(open_store(root)))


def test_a_model_of_one_prompt_of_one_token_can_be_ingested(llama, root):
    entry = ingest_one(root, llama, make_task("one", [{"prompt": "", "target": "x"}]))  # BOS alone
    assert entry.n_tokens[...].tolist() == [1]
    assert entry.hidden_states.shape == (4, 1, 32)


def test_probes_reach_from_the_shortest_prompt_to_the_median():
    lengths = (9, 3, 5, 1, 7, 100, 4)
    assert [lengths[row] for row in choose_probes(lengths)] == [1, 3, 4, 5]
    assert choose_probes([2]) == [0]


def test_blocks_are_found_by_depth_and_class_or_refused(llama):
    model = load_base(find_base(str(llama)), "float32", "cpu")
    assert find_blocks(model) is model.model.layers
    model.model.twin = torch.nn.ModuleList(model.model.layers)
    with pytest.raises(
        Source, match=r"LlamaForCausalLM: expected one list of 3 blocks of .*LlamaDecoderLayer.*, got 2"
    ):
        find_blocks(model)


def conforming(llama):
    return load_base(find_base(str(llama)), "float32", "cpu")


PROBES = [[0, 5, 9], [0, 7, 3, 11, 40]]


def test_conformance_reports_the_width_of_the_norm_and_the_cost_of_padding(llama):
    found = check_conformance(conforming(llama), PROBES)
    assert found.norm_width == 32
    assert 0 <= found.padded_against_alone < 1e-6


def test_a_backbone_without_a_final_norm_has_no_final_array(llama):
    model = conforming(llama)
    model.model.norm = torch.nn.Identity()
    assert check_conformance(model, PROBES).norm_width is None


def test_a_model_that_looks_at_what_follows_a_token_is_refused_by_conformance(llama):
    model = conforming(llama)

    def smear(_module, _args, output):
        return output + output.mean(dim=1, keepdim=True)

    model.model.layers[0].mlp.register_forward_hook(smear)
    with pytest.raises(Source, match=r"states change by .* when it is padded.*no causal decoder"):
        check_conformance(model, PROBES)


def test_a_model_whose_own_report_differs_from_the_hooks_is_refused(llama):
    model = conforming(llama)
    calls = []

    def drift(_module, _args, output):
        calls.append(1)
        return output + len(calls)

    handle = model.model.embed_tokens.register_forward_hook(drift)
    with pytest.raises(Source, match="layer 0 is not the state that the model itself reports"):
        check_conformance(model, PROBES)
    handle.remove()
    model.model.norm.register_forward_hook(drift)
    with pytest.raises(Source, match="the final state is not the one that the model itself reports"):
        check_conformance(model, PROBES)


def test_a_model_that_reports_no_states_is_refused(llama):
    model = conforming(llama)
    model.model.register_forward_hook(
        lambda _m, _a, output: output.__class__(last_hidden_state=output.last_hidden_state)
    )
    with pytest.raises(Source, match="does not report its own hidden states"):
        check_conformance(model, PROBES)


def test_blocks_that_return_tuples_are_read_as_such(llama):
    model = conforming(llama)
    states = Capture(model, [1])(PROBES).hidden
    model.model.layers[0].register_forward_hook(lambda _m, _a, output: (output, None))
    model.model.layers[1].register_forward_pre_hook(lambda _m, args: (args[0][0], *args[1:]))
    again = Capture(model, [1])(PROBES).hidden
    assert torch.equal(states, again)


def test_two_bases_share_one_store(bases, root, task):
    checkpoints = [Checkpoint(base=str(bases(family)), name=family) for family in FAMILIES]
    report = ingest(root, checkpoints, [task], Options(device="cpu"))
    assert [entry.model for entry in report.written] == list(FAMILIES)
    assert [entry.width for entry in report.written] == [32, 24, 16]
