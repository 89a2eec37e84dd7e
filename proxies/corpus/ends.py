"""The end-of-text token of a tokenizer.json: named by the settings or a file beside it, or the one known token."""

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer as Backend

from mixtures.errors import UserError, quoted
from mixtures.files import read_json

END_OF_TEXT = "<|endoftext|>"
# the bars in DeepSeek's are U+FF5C, the low lines U+2581
KNOWN_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "[EOS]")  # noqa: RUF001
NAMING_FILES = ("tokenizer_config.json", "special_tokens_map.json")  # transformers writes them; the first one wins
SHOWN = 10  # most special tokens that a message lists


def choose_end(backend: Backend, name: str, *, end: str = "", folder: Path | None = None) -> str:
    """Return the end-of-text token of a tokenizer that is called `name` in messages.

    The first of these that there is: `end`; the token with which the tokenizer has the fingerprint of the corpus.json
    in `folder`, as a run's tokenizer.json; the `eos_token` of a NAMING_FILES in `folder`; the only special token of
    KNOWN_ENDS; the only other token of KNOWN_ENDS. Raises UserError if there is none or more than one, and for a named
    token that the tokenizer does not have.
    """
    if end:
        return _require(backend, end, f"tokenizer {name}: corpus.tokenizer.end is {quoted(end)}")
    if folder is not None:
        if (found := _end_of_run(backend, folder)) is not None:
            return found
        for path in (folder / file for file in NAMING_FILES):
            if (found := _eos_token(path)) is not None:
                return _require(backend, found, f"tokenizer {name}: {path} names the end-of-text token {quoted(found)}")
    known = [token for token in KNOWN_ENDS if backend.token_to_id(token) is not None]
    special = set(special_tokens(backend))
    candidates = [token for token in known if token in special] or known
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UserError(
            f"tokenizer {name} has {len(candidates)} tokens that may be its end-of-text token, which is put after "
            f"every document: {', '.join(candidates)}; name the right one, as in corpus.tokenizer.end: "
            f"{json.dumps(candidates[0], ensure_ascii=False)}"
        )
    raise UserError(
        f"tokenizer {name} has no end-of-text token, which is put after every document; recognized ones: "
        f"{', '.join(KNOWN_ENDS)}; name another with corpus.tokenizer.end ({_listed(backend)}), add one as a special "
        "token to its tokenizer.json, or use `train_bpe` or `bytes`"
    )


def fingerprint(backend: Backend, eos_id: int) -> str:
    """Return the hash of a tokenizer and its end-of-text token; order of keys and white space do not count."""
    return _hash(_prefix(backend), eos_id)


def end_of_fingerprint(backend: Backend, wanted: str) -> str | None:
    """Return the token that gives the tokenizer this fingerprint as its end-of-text token; None if no token does."""
    prefix = _prefix(backend)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    return next((token for token, place in vocabulary.items() if _hash(prefix, place) == wanted), None)


def special_tokens(backend: Backend) -> list[str]:
    """Return the tokens that are marked as special, by id."""
    return [token.content for _, token in sorted(backend.get_added_tokens_decoder().items()) if token.special]


def _prefix(backend: Backend) -> "hashlib._Hash":
    """Return the hash of the JSON text `[tokenizer, eos_id]` up to the id."""
    content = json.dumps(json.loads(backend.to_str()), sort_keys=True)
    return hashlib.sha256(f"[{content}, ".encode())


def _hash(prefix: "hashlib._Hash", eos_id: int) -> str:
    whole = prefix.copy()
    whole.update(f"{eos_id}]".encode())
    return "sha256:" + whole.hexdigest()


def _end_of_run(backend: Backend, folder: Path) -> str | None:
    """Return the end-of-text token of the run whose corpus.json is in `folder`; None if that is of another tokenizer.

    The fingerprint decides, not the recorded token: older runs did not record the token.
    """
    try:
        recorded = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["tokenizer"]["fingerprint"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return end_of_fingerprint(backend, recorded)


def _eos_token(path: Path) -> str | None:
    """Return the `eos_token` of a file of transformers, which is text or has the text as `content`."""
    if not path.exists():
        return None
    content = read_json(path)
    token = content.get("eos_token") if isinstance(content, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise UserError(
            f"{path}: eos_token is {quoted(token)}; allowed: text, or a block with the text as `content`; "
            f"correct it, or set "
            "corpus.tokenizer.end"
        )
    return token or None


def _require(backend: Backend, token: str, what: str) -> str:
    if backend.token_to_id(token) is None:
        raise UserError(
            f"{what}, which is not in its vocabulary; set corpus.tokenizer.end to one of its tokens "
            f"({_listed(backend)})"
        )
    return token


def _listed(backend: Backend) -> str:
    tokens = special_tokens(backend)
    more = f" and {len(tokens) - SHOWN} more" if len(tokens) > SHOWN else ""
    return f"its special tokens: {', '.join(tokens[:SHOWN]) or 'none'}{more}"
