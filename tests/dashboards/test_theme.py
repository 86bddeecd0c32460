"""Colours, markers, and a Plotly that never calls home."""

from __future__ import annotations

from dashboards.theme import CONFIG, GRPO, RS_GRPO, dark_colors, fade, styles

LABELS = ["base", "GRPO", *(f"RS-GRPO β={b}" for b in (0, 2, 4, 8))]


def contrast(first: str, second: str) -> float:
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_plotly_offers_no_cloud() -> None:
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["plotlyServerURL"] == ""
    assert CONFIG["displaylogo"] is False


def test_the_three_methods_have_their_fixed_looks() -> None:
    found = styles(LABELS, "RS-GRPO β=4")
    assert (found["base"].color, found["base"].dash, found["base"].symbol) == (
        "#6E6E6E",
        "dot",
        "circle",
    )
    assert found["GRPO"] == GRPO and (GRPO.color, GRPO.dash, GRPO.symbol) == (
        "#D55E00",
        "dash",
        "square",
    )
    assert found["RS-GRPO β=4"] == RS_GRPO
    assert (RS_GRPO.color, RS_GRPO.dash, RS_GRPO.symbol) == ("#0072B2", "solid", "diamond")


def test_every_policy_differs_in_colour_and_marker() -> None:
    found = list(styles(LABELS, "RS-GRPO β=4").values())
    assert len({style.color for style in found}) == len({style.symbol for style in found}) == 6


def test_lines_stand_out_from_the_page_in_light_and_dark() -> None:
    for label, style in styles(LABELS, "RS-GRPO β=4").items():
        assert contrast(style.color, "#FFFFFF") > 2.4, label
        assert contrast(style.dark, "#1B1F24") > 3, label


def test_every_light_colour_and_its_fade_have_a_dark_twin() -> None:
    twins = dark_colors(styles(LABELS, None))
    assert twins["#0072B2"] == "#56B4E9"
    light = fade("#0072B2", 0.16)
    assert light == "rgba(0,114,178,0.16)"
    assert twins["rgba(0,114,178,"] == "rgba(86,180,233,"
