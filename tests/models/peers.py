"""Tiny random models of every family, made by `transformers`, the peer to agree with."""

import pytest

torch = pytest.importorskip("torch", reason="needs the peer extra: pip install '.[peer]'")
transformers = pytest.importorskip("transformers", reason="needs the peer extra")

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Wide enough for every non-linearity and cap to bite.
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.0, 1.5, 2.5, 4.0],
    "original_max_position_embeddings": 24,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Name: transformers' model type and what differs from SHAPE.
PEERS = {
    "llama-2": ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-3": ("llama", {"rope_theta": 500_000.0}),
    "llama-3.2": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}},
    ),
    "mistral": ("mistral", {"sliding_window": 5}),
    "zephyr": ("mistral", {"sliding_window": None, "rope_theta": 1000.0}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2.5-window-yarn": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "rope_parameters": YARN,
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "phi-3": ("phi3", {"sliding_window": 6}),
    "phi-3.5": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24}),
    "phi-1.5": ("phi", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma-2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 5,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
}


def make(name, folder=None, seed=0, **changes):
    """A peer with random weights, norms and biases included; saved to `folder` if given."""
    kind, differences = PEERS[name]
    config = transformers.AutoConfig.for_model(kind, **(SHAPE | differences | changes))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim == 1:
                # Constant at initialisation, and so would hide a missing term.
                offset = 1.0 if key.endswith("norm.weight") and "gemma" not in kind else 0.0
                value.copy_(offset + 0.2 * torch.randn_like(value))
    if folder is not None:
        model.save_pretrained(folder)
    return model
