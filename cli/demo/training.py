"""Small and plain training on transformers and peft: a base on text, LoRA adapters on tasks."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
BASE_STEPS, ADAPTER_STEPS, MULTITASK_STEPS = 300, 120, 400
_VOCABULARY, _WINDOW, _BATCH = 768, 32, 32
_IGNORE = -100  # labels that the loss leaves out

Step = Callable[[], None]


def make_tokenizer(lines: Sequence[str], words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words: `words`, and the most frequent ones of `lines`; <bos> before every text."""
    splitter = pre_tokenizers.Whitespace()
    needed = [piece for word in words for piece, _ in splitter.pre_tokenize_str(word)]
    counts = Counter(piece for line in lines for piece, _ in splitter.pre_tokenize_str(line))
    common = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    vocabulary = list(dict.fromkeys([*SPECIAL.values(), *needed, *common]))[:_VOCABULARY]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **SPECIAL)


def train_base(directory: Path, lines: Sequence[str], words: Sequence[str], seed: int, step: Step) -> None:
    """Train a small Llama on text and save it as any Llama is saved."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(lines, words)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.08,  # about 1 over the root of the width: LoRA cannot scale up a head of tiny rows
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    tokens = torch.tensor(
        [token for ids in tokenizer(list(lines))["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
    )

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(BASE_STEPS):
            starts = torch.randint(len(tokens) - _WINDOW, (_BATCH,))
            windows = tokens[starts[:, None] + torch.arange(_WINDOW)]
            yield windows, windows

    _train(model, batches(), BASE_STEPS, 2e-3, step)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def train_adapter(
    directory: Path, base: Path, examples: Sequence[dict[str, str]], n_steps: int, seed: int, step: Step
) -> None:
    """Train a LoRA adapter on prompts and targets, and save it as any adapter is saved."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with warnings.catch_warnings():  # PEFT asks transformers for a name that is going to go
        warnings.simplefilter("ignore", FutureWarning)
        model: PeftModel = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    prompts = tokenizer([example["inputs"] for example in examples])["input_ids"]
    targets = tokenizer([example["targets"] for example in examples], add_special_tokens=False)["input_ids"]
    pairs = [(prompt, [*target, tokenizer.eos_token_id]) for prompt, target in zip(prompts, targets, strict=True)]

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(n_steps):
            chosen = [pairs[index] for index in torch.randint(len(pairs), (_BATCH,)).tolist()]
            yield _pad(chosen, tokenizer.pad_token_id)

    _train(model, batches(), n_steps, 3e-3, step)
    model.save_pretrained(directory)


def _pad(pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(prompt) + len(target) for prompt, target in pairs)
    tokens = torch.full((len(pairs), length), pad)
    labels = torch.full((len(pairs), length), _IGNORE)
    for row, (prompt, target) in enumerate(pairs):
        end = len(prompt) + len(target)
        tokens[row, :end] = torch.tensor(prompt + target)
        labels[row, len(prompt) : end] = torch.tensor(target)
    return tokens, labels


def _train(
    model: torch.nn.Module, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], n_steps: int, rate: float, step: Step
) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=n_steps, pct_start=0.1)
    model.train()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the products are small: a second thread gains little, and loses much on a busy machine
    torch.set_flush_denormal(True)  # what rare words leave behind in the optimiser makes a step three times as slow
    for tokens, labels in batches:
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        step()
    torch.set_flush_denormal(False)
    torch.set_num_threads(n_threads)
    model.eval()
