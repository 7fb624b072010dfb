"""How far two colours stand apart, by the formulas of WCAG 2.2 (the definitions of relative luminance and contrast ratio)."""


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """From 1 for the same colour to 21 for black and white."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(rgb: tuple[int, int, int]) -> float:
    red, green, blue = (_linear(value / 255) for value in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
