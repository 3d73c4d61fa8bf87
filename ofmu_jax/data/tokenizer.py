"""Tokenizers: trained here, or from a folder in the layout of Hugging Face transformers."""

import dataclasses
import functools
import itertools
import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from ofmu_jax.errors import InputError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL_TOKENS = (PAD, BOS, EOS)

_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION_CONFIG = "generation_config.json"
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# What slow tokenizers are stored in.
_SLOW = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """From text to token ids and back.

    Attributes:
      backend: does the work. It neither pads nor truncates.
      bos_id: what the backend puts in front of a text; None if that is nothing.
      eos_id: the token that ends a text.
      pad_id: the token that fills a row; it may be a token in its own right.
      stop_ids: the tokens that end a generation; `eos_id` comes first.
      chat_template: a Jinja template for `render_chat`; None for models that do not chat.
      special_tokens: what a chat template may name, as `{"eos_token": "</s>", ...}`.
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None
    eos_id: int
    pad_id: int
    stop_ids: tuple[int, ...]
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        # A backend compares by identity.
        names = [field.name for field in dataclasses.fields(self) if field.name != "backend"]
        return self.backend.to_str() == other.backend.to_str() and all(
            getattr(self, name) == getattr(other, name) for name in names
        )

    @functools.cached_property
    def vocab_size(self) -> int:
        """Rows that an embedding table needs: the largest id + 1."""
        return max(self.backend.get_vocab().values(), default=-1) + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; nothing is added, but names of special tokens are read as such."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, without special tokens."""
        return self.backend.decode(ids, skip_special_tokens=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer (as of GPT-2, Radford et al., 2019).

    The same texts give the same tokenizer. Any text survives encoding and decoding, save that
    the name of a special token is read as that token.

    Args:
      texts: what to learn the merges from.
      vocab_size: number of ids at most: `<pad>` = 0, `<bos>` = 1, `<eos>` = 2, the 256 bytes and
        the merges. There are fewer if the texts have fewer pairs to merge.

    Returns:
      The tokenizer.

    Raises:
      InputError: `vocab_size` has no room for the special tokens and the bytes.

    >>> tokenizer = train_tokenizer([], 259)
    >>> tokenizer.vocab_size, tokenizer.decode([tokenizer.bos_id, *tokenizer.encode(["ab"])[0]])
    (259, 'ab')
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < smallest:
        raise InputError(f"vocab_size is {vocab_size}; expected at least {smallest}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    pad_id, bos_id, eos_id = range(len(SPECIAL_TOKENS))  # the trainer numbers these first
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)]
    )
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    return Tokenizer(backend, bos_id, eos_id, pad_id, (eos_id,), special_tokens=names)


def read_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Reads a tokenizer as transformers saves it, alone or beside a model.

    Whether texts begin with a token is up to the post-processor in `tokenizer.json`, as in
    transformers, which ignores `add_bos_token` beside that file.

    Args:
      folder: has `tokenizer.json`, and where they are needed `tokenizer_config.json`,
        `special_tokens_map.json`, `chat_template.jinja`, `config.json` and
        `generation_config.json`. Every `eos_token_id` of the last two ends a generation.

    Returns:
      The tokenizer; it pads with the token that ends a text if no other is given.

    Raises:
      InputError: a file is missing or damaged, no token is said to end a text, a special token is
        not in the vocabulary, or the backend puts several tokens in front of a text.
    """
    folder = Path(folder)
    backend = _read_backend(folder)
    config = _read_object(folder / _TOKENIZER_CONFIG)
    names = _read_special_tokens(folder, config)
    stops = [_token_id(backend, names["eos_token"], folder)] if "eos_token" in names else []
    for file in (_GENERATION_CONFIG, "config.json"):
        stops += _read_stop_ids(folder / file, backend)
    if not stops:
        raise InputError(
            f"{folder}: no token ends a text; expected eos_token in {_TOKENIZER_CONFIG} or "
            f"eos_token_id in {_GENERATION_CONFIG}"
        )
    return Tokenizer(
        backend=backend,
        bos_id=_leading_id(backend, folder),
        eos_id=stops[0],
        pad_id=_token_id(backend, names["pad_token"], folder) if "pad_token" in names else stops[0],
        stop_ids=tuple(dict.fromkeys(stops)),
        chat_template=_read_chat_template(folder, config),
        special_tokens=names,
    )


def write_tokenizer(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Writes a tokenizer so that `read_tokenizer` and transformers' AutoTokenizer open it.

    Args:
      folder: gets `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`, which
        holds the tokens that end a generation; it is made if need be.
      tokenizer: what to write.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # On by default in older versions of transformers; it would change decoded texts.
        "clean_up_tokenization_spaces": False,
        **tokenizer.special_tokens,
    }
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    (folder / _TOKENIZER).write_text(tokenizer.backend.to_str(), encoding="utf-8")
    for file, content in (
        (_TOKENIZER_CONFIG, config),
        (_GENERATION_CONFIG, {"eos_token_id": list(tokenizer.stop_ids)}),
    ):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / file).write_text(f"{text}\n", encoding="utf-8")


def _read_backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / _TOKENIZER
    if not path.is_file():
        slow = [name for name in _SLOW if (folder / name).is_file()]
        advice = (
            f"; make one from {slow[0]} with transformers: "
            f"AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')"
            if slow
            else ""
        )
        raise InputError(f"{path}: no such file; expected a tokenizer{advice}")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        message = " ".join(str(error).split())
        raise InputError(f"{path}: {message}; expected a tokenizer of tokenizers") from error
    # Files may keep what their author last encoded with, which would cut or pad ours.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_text(path: Path) -> str | None:
    """A file's text; None if there is no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; expected UTF-8") from error


def _read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty if there is no such file."""
    text = _read_text(path)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); expected an object") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {type(content).__name__}; expected a JSON object")
    return content


def _read_special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a folder names, each given as text or as an object with `content`."""
    fallback = _read_object(folder / "special_tokens_map.json")
    names = {}
    for role in _ROLES:
        name = f"{role}_token"
        value = fallback.get(name) if config.get(name) is None else config[name]
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            names[name] = content
        elif value is not None:
            raise InputError(
                f"{folder}: {name} is {reprlib.repr(value)}; expected text or an object with "
                "'content'"
            )
    return names


def _token_id(backend: tokenizers.Tokenizer, token: str, folder: Path) -> int:
    index = backend.token_to_id(token)
    if index is None:
        raise InputError(
            f"{folder}: the special token {token!r} is unknown to {_TOKENIZER}; expected a token "
            "of its vocabulary"
        )
    return index


def _read_stop_ids(path: Path, backend: tokenizers.Tokenizer) -> list[int]:
    value = _read_object(path).get("eos_token_id")
    stops = value if isinstance(value, list) else [] if value is None else [value]
    for stop in stops:
        # A bool is an int in Python.
        known = type(stop) is int and stop >= 0 and backend.id_to_token(stop) is not None
        if not known:
            raise InputError(
                f"{path}: eos_token_id {reprlib.repr(stop)}; expected an id of the vocabulary"
            )
    return stops


def _leading_id(backend: tokenizers.Tokenizer, folder: Path) -> int | None:
    encoding = backend.encode("x")
    pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    leading = [index for index, _ in itertools.takewhile(lambda pair: pair[1], pairs)]
    if len(leading) > 1:
        raise InputError(
            f"{folder / _TOKENIZER}: puts {len(leading)} tokens in front of a text; expected at "
            "most one"
        )
    return leading[0] if leading else None


def _read_chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    text = _read_text(folder / "chat_template.jinja")
    if text is not None:
        return text
    template = config.get("chat_template")
    if isinstance(template, list):
        # Several templates by name; the others are for tools and retrieval.
        named = (entry for entry in template if isinstance(entry, dict))
        template = next((e.get("template") for e in named if e.get("name") == "default"), None)
    if not isinstance(template, str | None):
        raise InputError(
            f"{folder / _TOKENIZER_CONFIG}: chat_template is {reprlib.repr(template)}; expected "
            "text or a list of objects with 'name' and 'template'"
        )
    return template
