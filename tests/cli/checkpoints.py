"""Tiny checkpoints, saved as any checkpoint is saved."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}<answer>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, with a beginning-of-sequence token before every text."""
    alphabet = ["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", chat_template=CHAT, model_max_length=128
    )


def save_base(directory: Path, *, seed: int, n_layers: int = 2, width: int = 16) -> Path:
    """Save a Llama of random weights with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_adapter(directory: Path, base: Path, *, seed: int, targets: Sequence[str] = ("q_proj", "v_proj")) -> Path:
    """Save a LoRA adapter of random weights, as far from its base as training would put it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers for names that it deprecates
        get_peft_model(LlamaForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory
