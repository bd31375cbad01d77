"""How the benchmarks write down what they measured."""

from benchmarks import app, growth, panel, sample_panel, timing


def test_median_with_its_spread():
    assert timing.spread([3.0, 1.0, 2.0]) == "2.00 (1.00-3.00)"
    assert timing.spread([3.0, 1.0], 1, bold=True) == "**2.0** (1.0-3.0)"


def test_tables_have_the_median_of_the_rounds():
    loads = {"first": [1.0, 1.0], "shown": 48}
    rows = [
        {"fields": 0, "seconds": [2.0, 4.0], **loads},
        {"fields": 5, "seconds": [3.0, 4.0], **loads},
    ]
    assert "| 5 | **1.25** (1.00-1.50) | 3.5 (3.0-4.0) | 1.0 | 48 |" in app.report(rows, 2)

    times = dict.fromkeys(("facts", "open", *(tab[0] for tab in panel.TABS)), 1.0)
    openings = [
        {"warm": warm, **times, "open": s} for warm, s in ((False, 9), (True, 1), (True, 2))
    ]
    text = panel.report([{"samples": 1000, "openings": openings}], 2)
    assert "| 1,000 | 1.00 (1.00-1.00) | 1.50 (1.00-2.00) |" in text

    rounds = [
        {"warm": warm, "open": [s], "next": [s, s], "panel": [s / 2], "ask": [2.0]}
        for warm, s in ((False, 9.0), (True, 0.5), (True, 0.7))
    ]
    text = sample_panel.report(rounds)
    assert "| the panel, from the click on its tab | 0.60 (0.50-0.70) | 1.2 | met |" in text
    assert "0.30 (0.25-0.35) | 0.4 | met |" in text
    assert "| 2.00 (2.00-2.00) | 1 | missed |" in text
    assert "imports torch | 9.00 |" in text

    found = [
        {"samples": n, "seconds": s, "resident_mb": 300, "before_mb": 250}
        for n, s in ((10, 0.1), (20, 0.4), (10, 0.1), (20, 0.3))
    ]
    text = growth.report(found, [10, 20], 2)
    assert "| 20 | **1.75** (1.50-2.00) | 17.50 (15.00-20.00) | 300 | +50 |" in text
