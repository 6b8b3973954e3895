"""Turns Hugging Face's config.json into a ModelConfig and back, for the families listed here.

It reads two styles: `rope_theta`, `rope_scaling` and `torch_dtype` of transformers 4, and
`rope_parameters`, `layer_types` and `dtype` of transformers 5. An absent field has the default of
transformers' own configuration class of that family. A field that this project cannot compute is
refused by name. It writes the first style, which both versions and vLLM read.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mapo_jax import errors
from mapo_jax.model import ModelConfig, RopeScaling
from mapo_jax.pretrained import preparation, vision
from mapo_jax.pretrained.fields import entry, positive


class Family(NamedTuple):
    """Properties of a model_type that config.json does not name."""

    architecture: str
    defaults: dict[str, Any]  # of fields that may be absent
    flags: dict[str, Any]  # of ModelConfig


_COMMON = {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
}
_GEMMA = {
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_act": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "num_key_value_heads": 4,
}
_GEMMA_FLAGS = {"post_norms": True, "norm_offset": True, "scale_embeddings": True}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", _COMMON, {}),
    "mistral": Family(
        "MistralForCausalLM", _COMMON | {"sliding_window": 4096, "num_key_value_heads": 8}, {}
    ),
    "qwen2": Family("Qwen2ForCausalLM", _COMMON | {"sliding_window": 4096}, {"qkv_bias": True}),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _COMMON | {"head_dim": 128, "sliding_window": 4096},
        {"qk_norm": True},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _COMMON | _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        _GEMMA_FLAGS,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _COMMON
        | _GEMMA
        | {
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": 6,
        },
        _GEMMA_FLAGS | {"qk_norm": True},
    ),
}
# If Gemma 3 has a vision tower, its text part is read. These fields are often left out there.
_GEMMA3_TEXT = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
_NAMES = ", ".join((*FAMILIES, *vision.FAMILIES))
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def read(folder: Path, where: str) -> ModelConfig:
    """Reads a folder's config.json. Raises UserError with every reason why it cannot be used."""
    try:
        fields = json.loads((folder / "config.json").read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
    except OSError as error:
        if (folder / "adapter_config.json").is_file():
            raise errors.UserError(
                f"{where}: holds adapters (adapter_config.json) and no whole policy; merge them "
                "into their base, as PEFT's merge_and_unload does, and give that folder"
            ) from None
        raise errors.UserError(
            f"{where}: config.json cannot be read ({error.strerror}); give a Hugging Face folder "
            "or the work directory of a run"
        ) from None
    except ValueError as error:
        raise errors.UserError(
            f"{where}: config.json is broken ({error}); download the folder again"
        ) from None
    mistakes: list[str] = []
    pictures: list[str] = []
    prepared = None
    if str(fields.get("model_type")) in vision.FAMILIES:
        prepared = preparation.read(folder, pictures)
    config = from_fields(fields, mistakes, prepared)
    lines = [f"config.json: {mistake}" for mistake in mistakes] + pictures
    if config is None or lines:
        raise errors.UserError(*(f"{where}: {line}" for line in lines))
    return config


def from_fields(
    fields: Mapping[str, Any],
    mistakes: list[str],
    prepared: preparation.Preparation | None = None,
) -> ModelConfig | None:
    """Returns the architecture of config.json, if any; adds what is wrong to `mistakes`.

    Args:
        fields: of config.json.
        mistakes: a line for each.
        prepared: of `preparation.read`, for a policy that sees pictures.
    """
    if str(fields.get("model_type")) in vision.FAMILIES:
        text = from_fields(vision.text_fields(fields, mistakes), mistakes)
        return text and vision.add(text, fields, prepared, mistakes)
    if fields.get("model_type") == "gemma3" and isinstance(fields.get("text_config"), dict):
        fields = _GEMMA3_TEXT | fields["text_config"] | {"model_type": "gemma3_text"}
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        found = fields.get("architectures")
        architecture = found[0] if isinstance(found, list) and found else "none"
        needs = vision.RELATIVES.get(str(kind))
        mistakes.append(
            f"model_type={kind} ({architecture}): this architecture is not supported"
            + (f", it would take {needs}" if needs else "")
            + f"; those that are: {_NAMES}"
        )
        return None
    family, gemma = FAMILIES[kind], kind.startswith("gemma")

    def of(name: str) -> Any:
        value = fields.get(name)
        # null means something only in these fields: there is no window or no soft cap.
        if value is None and not (name in _NULLABLE and name in fields):
            return family.defaults[name] if name in family.defaults else None
        return value

    def number(name: str, kind: type, default: Any = None) -> Any:
        value = of(name)
        return positive(name, default if value is None else value, kind, mistakes)

    def optional(name: str, kind: type) -> Any:
        return number(name, kind) if of(name) else kind(0)

    heads = number("num_attention_heads", int)
    numbers = {
        "vocab_size": number("vocab_size", int),
        "num_layers": number("num_hidden_layers", int),
        "embed_dim": number("hidden_size", int),
        "mlp_dim": number("intermediate_size", int),
        "num_heads": heads,
        "num_kv_heads": number("num_key_value_heads", int, heads),
        "norm_eps": number("rms_norm_eps", float),
        "max_positions": optional("max_position_embeddings", int),
    }
    numbers["head_dim"] = number("head_dim", int, max(numbers["embed_dim"] // heads, 1))
    if heads % numbers["num_kv_heads"]:
        mistakes.append(f"num_key_value_heads={numbers['num_kv_heads']} must divide {heads} heads")
    activation = of("hidden_activation") or of("hidden_act")
    if gemma and activation == "gelu":  # as transformers reads it
        activation = "gelu_pytorch_tanh"
    if str(activation) not in _ACTIVATIONS:
        mistakes.append(f"hidden_act={activation} is not supported")
    for name, neutral in (_FOREIGN if gemma else _FOREIGN | _GEMMA_ONLY).items():
        if fields.get(name) not in (None, neutral):
            mistakes.append(f"{name}={fields[name]} is not supported")
    if not isinstance(of("tie_word_embeddings"), bool):
        mistakes.append(f"tie_word_embeddings={of('tie_word_embeddings')} must be true or false")
    for name in ("quantization_config", "num_experts", "num_local_experts"):
        if fields.get(name):
            mistakes.append(f"{name} is not supported; give a dense policy in 16 or 32 bits")
    size, layers = optional("sliding_window", int), numbers["num_layers"]
    windows = _windows(kind, of, size, layers, mistakes)
    theta = number("rope_theta", float)
    local = number("rope_local_base_freq", float) if kind == "gemma3_text" else 0.0
    rope, local = _rotations(fields, theta, local, mistakes)
    return ModelConfig(
        **numbers,
        rope_theta=rope[0],
        rope_scaling=rope[1],
        local_rope_theta=local,
        windows=windows if any(windows) else (),
        tie_embeddings=bool(of("tie_word_embeddings")),
        activation=_ACTIVATIONS.get(str(activation), "silu"),
        query_scale=number("query_pre_attn_scalar", float) if gemma else 0.0,
        attention_softcap=optional("attn_logit_softcapping", float) if gemma else 0.0,
        logits_softcap=optional("final_logit_softcapping", float) if gemma else 0.0,
        **family.flags,
    )


# Fields that only other architectures compute, with the value at which they change nothing.
_FOREIGN = {
    "attention_bias": False,
    "mlp_bias": False,
    "use_bidirectional_attention": False,
    "is_causal": True,
    "partial_rotary_factor": 1,
    "embedding_multiplier": 1,
    "attention_multiplier": 1,
    "residual_multiplier": 1,
    "logits_scaling": 1,
    "logit_scale": 1,
}
_GEMMA_ONLY = {"attn_logit_softcapping": 0, "final_logit_softcapping": 0}
_NULLABLE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")


def _windows(kind: str, of: Any, size: int, layers: int, mistakes: list[str]) -> tuple[int, ...]:
    """Returns the window of each layer, `size` or 0 if it has none."""
    types = of("layer_types")
    if kind in ("qwen2", "qwen3") and not of("use_sliding_window"):
        size = 0
    if types is None:
        if kind in ("qwen2", "qwen3"):
            first = of("max_window_layers")
            first = 28 if first is None else first
            first = 0 if first == 0 else positive("max_window_layers", first, int, mistakes)
            is_sliding = [i >= first for i in range(layers)]
        elif kind == "gemma2":
            is_sliding = [i % 2 == 0 for i in range(layers)]
        elif kind == "gemma3_text":
            every = of("_sliding_window_pattern") or of("sliding_window_pattern")
            every = positive("sliding_window_pattern", every, int, mistakes)
            is_sliding = [(i + 1) % every != 0 for i in range(layers)]
        else:
            is_sliding = [kind == "mistral"] * layers
    else:
        named = isinstance(types, list) and all(name in (_FULL, _SLIDING) for name in types)
        if not named or len(types) != layers:
            mistakes.append(f"layer_types={types} must be {layers} of {_FULL}, {_SLIDING}")
            return ()
        is_sliding = [kind != "llama" and name == _SLIDING for name in types]
        if any(is_sliding) and not size:
            mistakes.append("layer_types has layers with a window, but sliding_window is missing")
    return tuple(size if sliding else 0 for sliding in is_sliding)


def _rotations(
    fields: Mapping[str, Any], theta: float, local: float, mistakes: list[str]
) -> tuple[tuple[float, RopeScaling | None], float]:
    """Returns (base, scaling), and the base of layers with a window, 0 if it is the same.

    As in transformers, rope_scaling replaces rope_parameters; where those have a part for each kind
    of layer, it is added to the part of full attention.
    """
    given, second = (entry(fields, name, mistakes) for name in ("rope_parameters", "rope_scaling"))
    if _FULL in given:
        inside = entry(given, _SLIDING, mistakes)
        if inside.get("rope_theta"):
            local = positive("rope_theta", inside["rope_theta"], float, mistakes)
        if _scaling(inside, mistakes) is not None:
            mistakes.append("rope_parameters: scaling in layers with a window is not supported")
        given = {**entry(given, _FULL, mistakes), **second}
    elif second:
        if not second.get("rope_theta") and given.get("rope_theta") not in (None, theta):
            mistakes.append(
                f"rope_scaling stands beside rope_parameters with rope_theta="
                f"{given['rope_theta']}, which it replaces; put rope_theta into rope_scaling, or "
                "remove one of the two"
            )
        given = second
    if given.get("rope_theta"):
        theta = positive("rope_theta", given["rope_theta"], float, mistakes)
    return (theta, _scaling(given, mistakes)), local


def _scaling(given: Mapping[str, Any], mistakes: list[str]) -> RopeScaling | None:
    kinds = {str(given[name]) for name in ("rope_type", "type") if given.get(name)}
    kind = "/".join(sorted(kinds))  # two that differ are refused: transformers would drop one
    if given.get("partial_rotary_factor") not in (None, 1, 1.0):
        mistakes.append("rope_parameters: partial_rotary_factor is not supported")
    others = sorted(name for name, value in given.items() if value is not None)
    others = [name for name in others if name not in ("rope_theta", "partial_rotary_factor")]
    if not kinds and others:
        mistakes.append(f"rope_scaling has {', '.join(others)} and no rope_type; name one")
    if kinds <= {"default"}:
        return None
    names = {
        "linear": ("factor",),
        "llama3": (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
    }
    if kind not in names:
        mistakes.append(f"rope_scaling of type {kind} is not supported; linear and llama3 are")
        return None
    missing = [name for name in names[kind] if given.get(name) is None]
    if missing:
        mistakes.append(f"rope_scaling of type {kind} needs {', '.join(missing)}")
        return None
    factor, *rest = (positive(name, given[name], float, mistakes) for name in names[kind])
    if not rest:
        return RopeScaling(factor)
    return RopeScaling(factor, rest[0], rest[1], int(rest[2]))


def to_fields(config: ModelConfig) -> dict[str, Any] | None:
    """Returns config.json of the first family that computes the same; None if none does."""
    config = dataclasses.replace(config, max_positions=config.max_positions or _POSITIONS)
    for kind in FAMILIES if config.vision is None else vision.FAMILIES:
        mistakes: list[str] = []
        if config.vision is None:
            fields, prepared = _fields(kind, config), None
        else:
            text = _fields(vision.FAMILIES[kind].text, config)
            fields = vision.to_fields(kind, config, text)
            prepared = preparation.of(config.vision)
        if from_fields(fields, mistakes, prepared) == config and not mistakes:
            return fields
    return None


def _fields(kind: str, config: ModelConfig) -> dict[str, Any]:
    c, family, gemma = config, FAMILIES[kind], kind.startswith("gemma")
    activation = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[c.activation]
    fields: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "hidden_size": c.embed_dim,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": activation,
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings,
        "rope_theta": c.rope_theta,
        "rope_scaling": _scaling_fields(c.rope_scaling),
        "attention_bias": False,
    }
    if kind == "llama":
        return fields | {"mlp_bias": False}
    window = max(c.windows, default=0)
    types = [_SLIDING if size else _FULL for size in c.windows or [0] * c.num_layers]
    fields |= {"sliding_window": window or None}
    if kind == "mistral":
        return fields
    fields |= {"layer_types": types}
    if kind in ("qwen2", "qwen3"):
        first = types.index(_SLIDING) if window else c.num_layers
        return fields | {"use_sliding_window": bool(window), "max_window_layers": first}
    if gemma:
        fields |= {
            "hidden_activation": activation,
            "query_pre_attn_scalar": _whole(c.query_scale or c.head_dim),
            "attn_logit_softcapping": c.attention_softcap or None,
            "final_logit_softcapping": c.logits_softcap or None,
        }
    if kind == "gemma3_text":
        fields |= {"rope_local_base_freq": c.local_rope_theta or c.rope_theta}
    return fields


_POSITIONS = 32_768  # if a policy does not say for how many it was trained


def _whole(value: float) -> float | int:
    """Returns a whole number as an integer, as transformers insists on one."""
    return int(value) if value == int(value) else value


def _scaling_fields(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if not scaling.original_length:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_length,
    }


def write(
    folder: Path, config: ModelConfig, dtype: str, eos_ids: Sequence[int], where: str
) -> None:
    """Writes config.json, and preprocessor_config.json for a policy that sees pictures.

    Raises:
        UserError: no family computes the architecture of `config`.
    """
    fields = to_fields(config)
    if config.vision and not config.image_frame:
        raise errors.UserError(
            f"{where}: a tower from scratch cannot be exported, as no token stands before and "
            "after its pictures; start further runs from the work directory, policy.init=DIR"
        )
    if fields is None:
        raise errors.UserError(
            f"{where}: none of {_NAMES} has this architecture ({config}), so "
            "transformers could not load it; change policy.*"
        )
    fields["torch_dtype"] = dtype
    if eos_ids:
        fields["eos_token_id"] = eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    files = {"config.json": fields}
    if config.vision is not None:
        processor = vision.FAMILIES[fields["model_type"]].processor
        files[preparation.FILE] = preparation.to_fields(processor, config.vision)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
