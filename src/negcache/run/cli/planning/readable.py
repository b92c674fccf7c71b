"""Numbers for people."""


def readable(amount: float | int, unit: str = "B", base: int = 1024) -> str:
    """A number with three digits and a prefix.

    Examples:
        >>> readable(1536), readable(2.5e12, "flop", 1000)
        ('1.50 KiB', '2.50 Tflop')
    """
    prefixes = ("", "K", "M", "G", "T", "P")
    power = 0
    while amount >= base and power < len(prefixes) - 1:
        amount, power = amount / base, power + 1
    infix = "i" if base == 1024 and power else ""
    digits = 0 if not power else max(0, 2 - (amount >= 10) - (amount >= 100))
    return f"{amount:.{digits}f} {prefixes[power]}{infix}{unit}"
