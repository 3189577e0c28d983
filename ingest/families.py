"""Families: how each architecture is loaded, padded and masked. All are padded on the right."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTextEncoding

from actlas.store import InvalidInput, Source


@dataclass(frozen=True, kw_only=True)
class Family:
    """What an architecture needs.

    Attributes
    ----------
    kind : str
        For messages and the provenance.
    loader : type
        The transformers class that loads it.
    masks : bool
        Whether padding is masked. A causal decoder needs no mask under right padding: a token sees only those before it,
        and without a mask the fast attention kernel is used.
    n_reserved : int
        Places of the position table that no token takes: RoBERTa counts positions from the padding index on.
    is_batch_dependent : bool
        Whether a near-tie in a router may send a token elsewhere in another batch.
    is_known : bool
        Whether the architecture is in the table; others are tried before they are run.
    is_decoder_stack : bool
        Whether an encoder reads the prompt, and what is captured is the decoder that reads the target.
    """

    kind: str
    loader: Any
    masks: bool
    n_reserved: int = 0
    is_batch_dependent: bool = False
    is_known: bool = True
    is_decoder_stack: bool = False

    def depth(self, config: Any) -> int:
        """Return the number of blocks that are captured."""
        return int(config.num_decoder_layers if self.is_decoder_stack else config.num_hidden_layers)


CAUSAL = Family(kind="causal decoder", loader=AutoModelForCausalLM, masks=False)
MIXTURE = replace(CAUSAL, is_batch_dependent=True)
ENCODER = Family(kind="encoder", loader=AutoModel, masks=True)
ENCODER_STACK = Family(kind="encoder stack of an encoder-decoder", loader=AutoModelForTextEncoding, masks=True)
DECODER_STACK = Family(kind="encoder-decoder whose decoder is run", loader=AutoModel, masks=True, is_decoder_stack=True)

# By `model_type`; each is tested with random weights, every prompt padded and alone, to 1e-6 in float32.
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        (
            "bloom", "falcon", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "mpt", "opt", "phi",
            "phi3", "qwen2", "qwen3",
        ),
        CAUSAL,
    ),
    **dict.fromkeys(("mixtral", "olmoe", "qwen3_moe"), MIXTURE),
    **dict.fromkeys(("bert", "modernbert"), ENCODER),
    "roberta": replace(ENCODER, n_reserved=2),
    "t5": ENCODER_STACK,
}  # fmt: skip

DECODERS = {"t5": DECODER_STACK}  # of the encoder-decoders in the table, where the decoder is asked for

# State-space layers among attention layers, by what their configurations have that others do not.
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_STATE_SPACE_TYPES = ("mamba", "jamba", "bamba", "zamba", "falcon_h1", "nemotron_h", "recurrent_gemma", "rwkv", "xlstm")
_STATE_SPACE_FIELDS = ("mamba_d_state", "ssm_cfg", "ssm_state_size", "state_size", "hybrid_override_pattern")


def family_of(config: Any, where: str, stack: str | None = None) -> Family:
    """Return the family of a model.

    Parameters
    ----------
    config : transformers configuration
        The model's.
    where : str
        Directory of the checkpoint, for messages.
    stack : str, optional
        ``decoder`` for that of an encoder-decoder.

    Raises
    ------
    Source
        When it is one that cannot be run: a state-space model or hybrid, an encoder-decoder outside the table, or no
        model of text.
    InvalidInput
        When a stack is asked for that it has not.
    """
    name = config.model_type
    if stack is not None:
        if name not in DECODERS:
            raise InvalidInput(
                f"{where}: stack {stack}: expected one of {', '.join(DECODERS)}, got {name}; leave it out"
            )
        return DECODERS[name]
    if state_space := _state_space(config):
        raise Source(
            f"{where}: {name} is a state-space model or a hybrid with one ({state_space}): its states depend on padding and on "
            "kernels that are not always there; expected a transformer"
        )
    if name in FAMILIES:
        return FAMILIES[name]
    if getattr(config, "num_hidden_layers", None) is None:
        raise Source(
            f"{where}: its config.json has no number of layers; expected a model of text alone, got {name}; save the "
            "language model of a multi-modal checkpoint by itself"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise Source(f"{where}: {name} is an encoder-decoder; of these only T5's encoder stack can be run")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise Source(
            f"{where}: {name} is neither a causal decoder nor one of the encoders that can be run: "
            f"{', '.join(sorted(name for name, family in FAMILIES.items() if family.masks))}"
        )
    return replace(CAUSAL, is_known=False)


def _state_space(config: Any) -> str | None:
    if config.model_type.startswith(_STATE_SPACE_TYPES):
        return f"model_type {config.model_type}"
    fields: Mapping[str, Any] = config.to_dict()
    for field in _STATE_SPACE_FIELDS:
        if fields.get(field) is not None:
            return field
    for field in ("layer_types", "layers_block_type"):
        other = sorted(set(map(str, fields.get(field) or ())) - _ATTENTION)
        if other:
            return f"{field} {', '.join(other)}"
    return None
