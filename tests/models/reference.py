"""A decoder in NumPy float64, one position and one head at a time, to compare against."""

import numpy as np


def _norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x) + eps) * weight


def _rotate(x, position, theta):
    half = len(x) // 2
    turned = np.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        a, b = x[i], x[i + half]
        turned[i] = a * np.cos(angle) - b * np.sin(angle)
        turned[i + half] = b * np.cos(angle) + a * np.sin(angle)
    return turned


def states(config, params, tokens, depth):
    """The residual stream (S, E) of one sequence (S,) after its first `depth` layers."""
    embedding = np.asarray(params["embed_tokens"], np.float64)
    group = config.num_attention_heads // config.num_key_value_heads
    stream = [embedding[token] for token in tokens]
    for layer in range(depth):
        w = {
            name: np.asarray(value[layer], np.float64)
            for part in ("self_attn", "mlp")
            for name, value in params["layers"][part].items()
        }
        scale = {
            name: np.asarray(params["layers"][name]["weight"][layer], np.float64)
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        normed = [_norm(x, scale["input_layernorm"], config.norm_eps) for x in stream]
        for t in range(len(tokens) - 1, -1, -1):
            update = 0.0
            for head in range(config.num_attention_heads):
                query = _rotate(normed[t] @ w["q_proj"][:, head], t, config.rope_theta)
                scores, values = [], []
                for s in range(t + 1):
                    key = normed[s] @ w["k_proj"][:, head // group]
                    key = _rotate(key, s, config.rope_theta)
                    scores.append(query @ key / np.sqrt(config.head_size))
                    values.append(normed[s] @ w["v_proj"][:, head // group])
                weights = np.exp(np.array(scores) - max(scores))
                update += weights / weights.sum() @ np.array(values) @ w["o_proj"][head]
            stream[t] = stream[t] + update
        for t in range(len(tokens)):
            x = _norm(stream[t], scale["post_attention_layernorm"], config.norm_eps)
            gate = x @ w["gate_proj"]
            inner = gate / (1 + np.exp(-gate)) * (x @ w["up_proj"])
            stream[t] = stream[t] + inner @ w["down_proj"]
    return np.stack(stream)


def logits(config, params, tokens):
    """Logits (S, V) of one sequence (S,)."""
    stream = states(config, params, tokens, config.num_hidden_layers)
    embedding = np.asarray(params["embed_tokens"], np.float64)
    final = np.asarray(params["norm"]["weight"], np.float64)
    head = np.asarray(params.get("lm_head", embedding), np.float64)
    return np.stack([_norm(x, final, config.norm_eps) @ head.T for x in stream])
