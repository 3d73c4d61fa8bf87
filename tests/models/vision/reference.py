"""The small CNN in numpy, pixel by pixel, examples first."""

import numpy as np


def small_cnn(variables, images, frozen):
    """Logits and moments of (B, H, W, C) images."""
    x, moments = np.asarray(images, np.float64), {}
    params = variables.params["backbone"]
    for name in ("conv1", "conv2"):
        x = convolve(x, np.asarray(params[name]["conv"]["kernel"], np.float64))
        moments[name] = {"norm": {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}}
        used = (variables.statistics["backbone"] if frozen else moments)[name]["norm"]
        norm = params[name]["norm"]
        x = (x - used["mean"]) / np.sqrt(used["var"] + 1e-5) * norm["scale"] + norm["bias"]
        x = pool(np.maximum(x, 0))
    # Features are counted channels first.
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    x = np.maximum(x @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
    head = variables.params["head"]
    return x @ head["kernel"] + head["bias"], {"backbone": moments}


def convolve(x, kernel):
    batch, height, width, _ = x.shape
    out = np.zeros((batch, height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    y, z = row + i - 1, column + j - 1
                    if 0 <= y < height and 0 <= z < width:
                        out[:, row, column] += x[:, y, z] @ kernel[i, j]
    return out


def pool(x):
    _, height, width, _ = x.shape
    rows = [
        [x[:, i : i + 2, j : j + 2].max((1, 2)) for j in range(0, width - 1, 2)]
        for i in range(0, height - 1, 2)
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)
