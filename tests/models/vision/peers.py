"""PyTorch twins of the classifiers, given the same weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the peer extra: pip install '.[peer]'")
transformers = pytest.importorskip("transformers", reason="needs the peer extra")


def tensor(x):
    return torch.from_numpy(np.array(x))


def copy(target, value):
    value = tensor(value)
    assert target.shape == value.shape
    with torch.no_grad():
        target.copy_(value)


def set_conv(conv, tree):
    copy(conv.weight, np.transpose(tree["kernel"], (3, 2, 0, 1)))
    if "bias" in tree:
        copy(conv.bias, tree["bias"])


def set_norm(norm, tree, statistics):
    copy(norm.weight, tree["scale"])
    copy(norm.bias, tree["bias"])
    copy(norm.running_mean, statistics["mean"])
    copy(norm.running_var, statistics["var"])

    def count(module, inputs, _):
        module.values_seen = inputs[0].numel() // inputs[0].shape[1]

    norm.register_forward_hook(count)


def set_linear(linear, kernel, bias):
    copy(linear.weight, np.asarray(kernel).T)
    copy(linear.bias, bias)


def small_cnn(config, variables):
    height, width, channels = config.image_shape
    base, maps = config.channels, (height // 4) * (width // 4)
    modules = []
    for inputs, outputs in ((channels, base), (base, 2 * base)):
        modules += [
            torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(outputs),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
        ]
    modules += [
        torch.nn.Flatten(),
        torch.nn.Linear(2 * base * maps, 4 * base),
        torch.nn.ReLU(),
        torch.nn.Linear(4 * base, config.num_classes),
    ]
    params, statistics = variables.params["backbone"], variables.statistics["backbone"]
    norms = {}
    for index, name in ((0, "conv1"), (4, "conv2")):
        set_conv(modules[index], params[name]["conv"])
        set_norm(modules[index + 1], params[name]["norm"], statistics[name]["norm"])
        norms[name] = modules[index + 1]
    set_linear(modules[9], **params["hidden"])
    set_linear(modules[11], **variables.params["head"])
    return torch.nn.Sequential(*modules), norms


def vgg16_bn(config, variables):
    params, statistics = variables.params["backbone"], variables.statistics["backbone"]
    modules, norms, inputs = [], {}, config.image_shape[2]
    plan = ["1_0", "1_1", "", "2_0", "2_1", "", "3_0", "3_1", "3_2", "", "4_0", "4_1", "4_2", ""]
    for place in [*plan, "5_0", "5_1", "5_2", ""]:
        if not place:
            modules.append(torch.nn.MaxPool2d(2))
            continue
        name = f"stage{place}"
        outputs = config.channels * min(2 ** (int(place[0]) - 1), 8)
        conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        norms[name] = torch.nn.BatchNorm2d(outputs)
        set_conv(conv, params[name]["conv"])
        set_norm(norms[name], params[name]["norm"], statistics[name]["norm"])
        modules += [conv, norms[name], torch.nn.ReLU()]
        inputs = outputs
    head = torch.nn.Linear(inputs, config.num_classes)
    set_linear(head, **variables.params["head"])
    pool = torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(*modules, pool, torch.nn.Flatten(), head), norms


def resnet(config, variables):
    kind, depths, widening = {
        "resnet18": ("basic", [2, 2, 2, 2], 1),
        "resnet50": ("bottleneck", [3, 4, 6, 3], 4),
    }[config.name]
    base = config.channels
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_channels=config.image_shape[2],
            embedding_size=base,
            hidden_sizes=[widening * base * 2**stage for stage in range(4)],
            depths=depths,
            layer_type=kind,
            num_labels=config.num_classes,
        )
    )
    params, statistics = variables.params["backbone"], variables.statistics["backbone"]
    embedder = model.resnet.embedder
    embedder.pooler = torch.nn.Identity()
    stem = embedder.embedder
    stem.convolution = torch.nn.Conv2d(config.image_shape[2], base, 3, padding=1, bias=False)
    norms = {}

    def put(twin, *path):
        tree, stats = params, statistics
        for name in path:
            tree, stats = tree[name], stats[name]
        set_conv(twin.convolution, tree["conv"])
        set_norm(twin.normalization, tree["norm"], stats["norm"])
        norms["/".join(path)] = twin.normalization

    put(stem, "stem")
    for stage, depth in enumerate(depths):
        for index in range(depth):
            block = model.resnet.encoder.stages[stage].layers[index]
            name = f"stage{stage + 1}_{index}"
            for place, layer in enumerate(block.layer):
                put(layer, name, f"conv{place + 1}")
            if not isinstance(block.shortcut, torch.nn.Identity):
                put(block.shortcut, name, "shortcut")
    set_linear(model.classifier[1], **variables.params["head"])
    return Logits(model), norms


def vit(config, variables):
    height, width, channels = config.image_shape
    embed = config.channels
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            image_size=(height, width),
            patch_size=4,
            num_channels=channels,
            hidden_size=embed,
            num_hidden_layers=12,
            num_attention_heads=config.heads,
            intermediate_size=4 * embed,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
            num_labels=config.num_classes,
        )
    )
    params = variables.params["backbone"]
    state = model.state_dict()
    taken = set()

    def put(name, value):
        copy(state[name], value)
        taken.add(name)

    def put_norm(name, tree, layer=...):
        put(f"{name}.weight", tree["scale"][layer])
        put(f"{name}.bias", tree["bias"][layer])

    def put_linear(name, kernel, bias, inputs):
        put(f"{name}.weight", np.asarray(kernel).reshape(inputs, -1).T)
        put(f"{name}.bias", np.ravel(bias))

    put("vit.embeddings.cls_token", params["class_token"][None, None])
    put("vit.embeddings.position_embeddings", params["positions"][None])
    patches = "vit.embeddings.patch_embeddings.projection"
    put(f"{patches}.weight", np.transpose(params["patches"]["kernel"], (3, 2, 0, 1)))
    put(f"{patches}.bias", params["patches"]["bias"])
    put_norm("vit.layernorm", params["norm"])
    put_linear("classifier", **variables.params["head"], inputs=embed)
    blocks = params["blocks"]
    # Names of the projections have moved between versions of the peer.
    first = [name for name in state if ".0." in name and name.endswith(".weight")]
    for layer in range(12):
        for name in first:
            stem = name.removesuffix(".weight").replace(".0.", f".{layer}.", 1)
            if "layernorm_before" in stem:
                put_norm(stem, blocks["norm1"], layer)
            elif "layernorm_after" in stem:
                put_norm(stem, blocks["norm2"], layer)
            else:
                ours, inputs = projection(blocks, stem, embed)
                put_linear(stem, ours["kernel"][layer], ours["bias"][layer], inputs)
    assert taken == set(state)
    return Logits(model), {}


def projection(blocks, name, embed):
    """Our subtree for a linear layer of the peer, and its inputs."""
    attention = blocks["attention"]
    for word, tree, inputs in (
        ("query", attention["query"], embed),
        ("q_proj", attention["query"], embed),
        ("key", attention["key"], embed),
        ("k_proj", attention["key"], embed),
        ("value", attention["value"], embed),
        ("v_proj", attention["value"], embed),
        ("o_proj", attention["out"], embed),
        ("attention.output", attention["out"], embed),
        ("intermediate", blocks["up"], embed),
        ("fc1", blocks["up"], embed),
        ("output", blocks["down"], 4 * embed),
        ("fc2", blocks["down"], 4 * embed),
    ):
        if word in name:
            return tree, inputs
    raise AssertionError(f"the peer has a layer {name} that this test does not know")


class Logits(torch.nn.Module):
    """A model of `transformers` as a function to logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


TWINS = {
    "small_cnn": small_cnn,
    "resnet18": resnet,
    "resnet50": resnet,
    "vgg16_bn": vgg16_bn,
    "vit_tiny": vit,
}
