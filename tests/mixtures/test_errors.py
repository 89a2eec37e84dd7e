"""How messages show values: short, printable, equal faults once."""

import pytest

from mixtures.errors import NOTHING, clipped, grouped, one_line, printable, quoted, some


def bomb(levels: int = 9) -> list:
    value: list = ["x"] * 9
    for _ in range(levels):
        value = [value] * 9
    return value


@pytest.mark.parametrize(
    "value",
    [bomb(), 10**4400, "x" * 10**6, {"a": bomb()}, b"x" * 10**6, [["\x1b"] * 10**5] * 10],
    ids=["aliases", "digits", "text", "dict", "bytes", "escapes"],
)
def test_a_quoted_value_is_short_however_large_it_is(value: object) -> None:
    assert len(quoted(value)) <= 80


@pytest.mark.parametrize("value", ["plain", 7, 1.5, None, ["a", "b"], {"a": 1}, -(2**63)])
def test_a_short_value_is_quoted_whole(value: object) -> None:
    assert quoted(value) == repr(value)


def test_a_clipped_text_keeps_both_ends() -> None:
    assert clipped("abcdefghij" * 10, 11) == "abcd...ghij"


def test_control_characters_are_written_out_and_lines_stay() -> None:
    assert printable("a\x1b[31m\r\x9b\u202e\ud800\n\tb ü…") == "a\\x1b[31m\\r\\x9b\\u202e\\ud800\n\tb ü…"
    assert one_line("warm-up\ncurl x | sh\x1b") == "warm-up curl x | sh\\x1b"


def test_many_equal_faults_are_one_sentence_and_few_are_not() -> None:
    many = [(f"domains.d{number}", "is no number", number) for number in range(300)]
    assert grouped([*many, ("seed", "is missing", NOTHING)]) == [
        "domains.d0, domains.d1, domains.d2 and 297 more: is no number (found 0 at the first)",
        "seed: is missing",
    ]
    assert grouped(many[:2]) == ["domains.d0: is no number (found 0)", "domains.d1: is no number (found 1)"]


def test_a_list_is_not_cut_to_save_one_name() -> None:
    assert some(list("abcd")) == "a, b, c, d"
    assert some(list("abcde")) == "a, b, c and 2 more"
