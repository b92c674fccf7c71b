"""The one error negcache raises for bad input: what was expected, what came, what to do."""

import unicodedata


class InputError(ValueError):
    """Bad input, told in three clauses.

    Args:
        expected: what the caller should have passed.
        got: what came instead, with its numbers or names.
        remedy: what to do now.

    Examples:
        >>> print(InputError("at least 2 items", "a corpus of 1 item", "add items"))
        Expected at least 2 items; got a corpus of 1 item. To fix this: add items.
    """

    def __init__(self, expected: str, got: str, remedy: str) -> None:
        super().__init__(visible(f"Expected {expected}; got {got}. To fix this: {remedy}."))
        self.expected, self.got, self.remedy = expected, got, remedy


def visible(text: str) -> str:
    """A text of unknown origin as a terminal may show it: what would steer it, as escapes.

    Control characters, line ends among them, what turns the direction of writing, and halves of
    surrogate pairs.

    Examples:
        >>> print(visible("red \x1b[31m, clear \x1bc, for\u202eward"))
        red \\x1b[31m, clear \\x1bc, for\\u202eward
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one.encode("unicode_escape").decode() if _steers(one) else one for one in text)


def _steers(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _DIRECTIONS


_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
