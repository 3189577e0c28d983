"""Tiny checkpoints, adapters and tasks, saved as any checkpoint is saved; also what child processes of the tests run."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from actlas.ingest import Checkpoint, Options, Progress, ingest
from actlas.store import Entry, Task, make_task, open_store

SPECIAL = ("<bos>", "<eos>", "<pad>")
CONTEXT = 96
CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# tiny weights of the usual size give layers that hardly differ from one another
_SPREAD = {"initializer_range": 0.2, "vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def byte_tokenizer(
    *, bos: bool = True, chat: str | None = CHAT, context: int | None = CONTEXT
) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes; with `bos`, every text begins with one."""
    alphabet = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **({} if context is None else {"model_max_length": context}),
        **dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL, strict=True)),
    )
    fast.chat_template = chat
    return fast


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            **_SPREAD,
        )
    )


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=2, n_positions=128, **_SPREAD))


def _qwen2() -> Any:
    return Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=16,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            **_SPREAD,
        )
    )


FAMILIES: dict[str, Callable[[], Any]] = {"llama": _llama, "gpt2": _gpt2, "qwen2": _qwen2}


def save_base(
    directory: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "float32",
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """Save a random model of a family, biases and norms random too, with its tokenizer."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    (tokenizer or byte_tokenizer()).save_pretrained(directory)
    return directory


def save_adapter(directory: Path, base: Path, *, seed: int = 1, dtype: str | None = None, **lora: Any) -> Path:
    """Save a LoRA adapter of which every tensor is random, so that it matters."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
        adapted = get_peft_model(model, LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter += 0.05 * torch.randn_like(parameter)
        if dtype is not None:
            adapted.to(getattr(torch, dtype))
        adapted.save_pretrained(directory)
    return directory


def load(base: Path, adapter: Path | None = None, dtype: str = "float32") -> Any:
    """Load a checkpoint afresh, as transformers and PEFT do it: the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).eval()
        if adapter is None:
            return model
        return PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).eval()


def own_states(model: Any, token_ids: Sequence[Sequence[int]], *, mask: bool = True) -> tuple[Any, Any]:
    """The model's own raw states and final states at the last tokens, as (L + 1, n, p) and (n, p) arrays."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    causal.config.tie_last_hidden_states = False  # raw to the last block
    lengths = torch.tensor([len(ids) for ids in token_ids])
    padded = torch.full((len(token_ids), int(lengths.max())), 0)
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = torch.tensor(ids)
    masks = {"attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()} if mask else {}
    final: list[torch.Tensor] = []
    with torch.no_grad():
        hook = causal.base_model.register_forward_hook(lambda _m, _a, output: final.append(output.last_hidden_state))
        hidden = model(input_ids=padded, output_hidden_states=True, use_cache=False, **masks).hidden_states
        hook.remove()
    rows = torch.arange(len(token_ids))
    assert len(hidden) == causal.config.num_hidden_layers + 1
    return torch.stack([state[rows, lengths - 1] for state in hidden]), final[0][rows, lengths - 1]


def bits(array: Any) -> bytes:
    """The bytes of a NumPy array or a torch tensor, bfloat16 included."""
    if isinstance(array, torch.Tensor):
        kinds = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
        array = array.contiguous().view(kinds[array.dtype]).numpy()
    return np.ascontiguousarray(array).tobytes()


def prompts(n: int, *, seed: int = 0, longest: int = 60) -> list[str]:
    """Distinct prompts of mixed lengths."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz ,.?é"))
    return [f"{row}:" + "".join(random.choice(letters, random.integers(1, longest))) for row in range(n)]


def tiny_task(n: int = 12, slug: str = "rte", **settings: int) -> Task:
    return make_task(slug, [{"prompt": text, "target": "yes"} for text in prompts(n, **settings)])


def ingest_one(store: Path, base: Path, task: Task, adapter: Path | None = None, **options: Any) -> Entry:
    """Ingest one checkpoint on one task; the entry that was written."""
    name = "tuned" if adapter else "base"
    checkpoint = Checkpoint(base=str(base), adapter=adapter and str(adapter), name=name)
    (entry,) = ingest(store, [checkpoint], [task], Options(**{"device": "cpu"} | options)).written
    return entry


def tree(directory: Path) -> dict[str, str]:
    """Every path of a directory with a digest of its bytes."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in directory.rglob("*")
    }


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# What child processes run: importable by name, for they start from multiprocessing's fork server.


def child_ingests(store: str, base: str, task: Task, answers: Any, n_threads: int = 1) -> None:
    """Ingest one checkpoint on one task; say that it begins, and answer the entry's id."""
    torch.set_num_threads(n_threads)
    answers.put("begin")
    (entry,) = ingest(store, [Checkpoint(base=base, name="base")], [task], Options(device="cpu")).written
    answers.put(entry.id)


def child_ingests_random(store: str, base: str, task: Task, seed: int, n_threads: int, answers: Any) -> None:
    """Ingest random weights of a checkpoint's configuration; answer the model's digest and the entry's id."""
    torch.set_num_threads(n_threads)
    torch.manual_seed(n_threads)
    (entry,) = ingest(store, [Checkpoint(base=base, random_init=seed)], [task], Options(device="cpu")).written
    answers.put((open_store(store).model(entry.model).identity.digest, entry.id))


def child_ingests_a_shard(
    store: str, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task], shard: str, answers: Any
) -> None:
    """Ingest one shard; answer how many entries were written."""
    torch.set_num_threads(1)
    answers.put(len(ingest(store, checkpoints, tasks, Options(device="cpu", shard=shard)).written))


def child_ingests_on_two(store: str, base: str, tasks: Sequence[Task], answers: Any) -> None:
    """Ingest one checkpoint with two processes; say that they begin."""

    class Beginning(Progress):
        def entry(self, label: str) -> None:
            answers.put("begin")

    options = Options(devices=("cpu", "cpu"))
    ingest(store, [Checkpoint(base=base, name="base")], tasks, options, progress=Beginning())
