"""The one error negcache raises for bad input: what was expected, what came, what to do."""


class InputError(ValueError):
    """Bad input, told in three clauses.

    Args:
        expected: what the caller should have passed.
        got: what came instead, with its numbers or names.
        remedy: what to do now.

    Example:
        >>> print(InputError("at least 2 items", "a corpus of 1 item", "add items"))
        Expected at least 2 items; got a corpus of 1 item. To fix this: add items.
    """

    def __init__(self, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"Expected {expected}; got {got}. To fix this: {remedy}.")
        self.expected, self.got, self.remedy = expected, got, remedy
