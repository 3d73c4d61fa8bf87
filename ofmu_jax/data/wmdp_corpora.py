"""Texts to unlearn for WMDP (Li et al., 2024, arXiv:2403.03218), with texts to retain."""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import tokenizers

from ofmu_jax.data.encoding import Encoded, leading_ids, pad_rows
from ofmu_jax.data.records import Record, has_records, read_records, text_of, value_of
from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.errors import InputError

WMDP_DOMAINS = ("bio", "cyber")
WIKITEXT, CORPORA = "wikitext", "corpora"

_WIKITEXT_TABLE = "wikitext-2-raw-v1"
# Tables that the hub has in repositories of their own, with the config that they have there.
_ELSEWHERE: dict[str, tuple[str, str | None]] = {
    "bio-forget-corpus": ("hf://cais/wmdp-bio-forget-corpus", None),
    _WIKITEXT_TABLE: ("hf://Salesforce/wikitext", _WIKITEXT_TABLE),
}
_GATED = (
    "the biology forget corpus is gated: its authors grant access at cais/wmdp-bio-forget-corpus "
    "on the hub; place it as bio-forget-corpus.jsonl, or ask for --subjects cyber"
)
# Shorter texts are headings and blank lines; the authors' program leaves them out likewise.
_SHORTEST = 51
# Of a text no more is encoded than this for each token of its row.
_CHARACTERS_PER_TOKEN = 16


@dataclasses.dataclass(frozen=True)
class WmdpCorpora:
    """What is to be unlearned for WMDP.

    Attributes:
      name: the data set and its domains, for run folders and reports.
      forget: the texts to unlearn, as many of each domain.
      retain: the texts to keep.
      row_length: how many tokens of a text are read.
    """

    name: str
    forget: tuple[str, ...]
    retain: tuple[str, ...]
    row_length: int = 512


def load_wmdp_corpora(
    source: str | os.PathLike[str],
    domains: Sequence[str] = WMDP_DOMAINS,
    retain: str = WIKITEXT,
    row_length: int = 512,
) -> WmdpCorpora:
    """Reads the corpora of WMDP.

    Of several domains each gives its first texts, as many as the smallest domain has, so that each
    has the same part in the batches. Texts of at most 50 characters are left out.

    Args:
      source: `hf://cais/wmdp-corpora`; or a folder with the tables `bio-forget-corpus`,
        `bio-retain-corpus`, `cyber-forget-corpus`, `cyber-retain-corpus` and `wikitext-2-raw-v1`,
        of which only those asked for need be there; see `read_records`. A record has `text`.
      domains: some of "bio" and "cyber".
      retain: "wikitext", the test split of WikiText-2, as the paper retains; or "corpora", those of
        the domains.
      row_length: how many tokens of a text are read, at least 2.

    Returns:
      The texts.

    Raises:
      InputError: an unknown domain, retain set or row length; a bad or a missing file, or a record
        without text; the message says so if the missing corpus is the gated one.
    """
    if not domains or len(set(domains)) < len(domains) or set(domains) - set(WMDP_DOMAINS):
        raise InputError(
            f"subjects of wmdp to unlearn are {', '.join(domains) or 'none'!r}; expected some of "
            f"{', '.join(WMDP_DOMAINS)}, each once: the others have questions, but no corpus"
        )
    if retain not in (WIKITEXT, CORPORA):
        raise InputError(f"retain set {retain!r} of wmdp; expected {WIKITEXT} or {CORPORA}")
    if row_length < 2:
        raise InputError(
            f"row_length is {row_length}; expected at least 2, so that a token follows"
        )
    forget = _balanced([_texts(source, f"{domain}-forget-corpus") for domain in domains])
    kept = (
        _texts(source, _WIKITEXT_TABLE, "test")
        if retain == WIKITEXT
        else _balanced([_texts(source, f"{domain}-retain-corpus") for domain in domains])
    )
    return WmdpCorpora(f"wmdp/{'+'.join(domains)}", forget, kept, row_length)


def text_rows(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Encoded:
    """The beginnings of texts as rows, one of each, as RMU's authors read their corpora.

    A row begins with the token that begins a text, if there is one; no token ends it. The name of a
    special token, such as `<s>` in the source of a web page, is read as the text that it is.

    Args:
      tokenizer: the model's.
      texts: N texts.
      length: the width S, of which longer texts fill all.

    Returns:
      The N rows; all tokens but the first are scored.
    """
    # A copy, since how the names of special tokens are read is a state of the backend.
    plain = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    plain.encode_special_tokens = True
    beginnings = [text[: _CHARACTERS_PER_TOKEN * length] for text in texts]
    leading = leading_ids(tokenizer)
    rows = [
        [*leading, *encoding.ids][:length]
        for encoding in plain.encode_batch(beginnings, add_special_tokens=False)
    ]
    labels = [f"text {index}" for index in range(len(rows))]
    return pad_rows(tokenizer, [[row[:1], row[1:]] for row in rows], labels, length)


def _texts(source: str | os.PathLike[str], table: str, split: str = "train") -> tuple[str, ...]:
    place: str = os.fspath(source)
    config: str | None = table
    hub = place.startswith("hf://")
    if hub:
        place, config = _ELSEWHERE.get(table, (place, table))
    try:
        records = read_records(place, config, split)
    except InputError as error:
        if table == "bio-forget-corpus" and (hub or not has_records(place, table, split)):
            raise InputError(f"{error}; {_GATED}") from error
        raise
    texts = tuple(_long_enough(records))
    if not texts:
        raise InputError(
            f"{place}: table {table!r} has no text of {_SHORTEST} characters or more; expected one"
        )
    return texts


def _long_enough(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        value = value_of(record, "text")
        if not isinstance(value, str) or len(value) >= _SHORTEST:
            yield text_of(record, "text")


def _balanced(corpora: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    fewest = min(map(len, corpora))
    return tuple(text for corpus in corpora for text in corpus[:fewest])
