"""Tests that the tables, figures, numbers and code of docs/method.md agree with the project."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from mapo_jax import advantages
from mapo_jax.advantages import diagnostics
from tests import small

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "method.md").read_text(encoding="utf-8")
_SPEC = importlib.util.spec_from_file_location("method", DOCS / "method.py")
method = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(method)


LONG = ("reversion", "mirror", "dynamics")  # of thousands of groups or policies


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "name",
    [*(n for n in method.TABLES if n not in LONG), *small.slow(*([n] for n in LONG))],
)
def test_table_is_what_the_code_computes(name):
    found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert found[1] == method.markdown(method.TABLES[name]()), "run python docs/method.py"


def test_the_page_has_no_other_table():
    assert sorted(re.findall(r"<!-- table: (\w+) -->", PAGE)) == sorted(method.TABLES)


def test_tables_are_written_where_they_stand(monkeypatch):
    monkeypatch.setattr(method, "TABLES", {"one": lambda: [("a", "b*"), ("1|2", "3")]})
    page = "x\n<!-- table: one -->\nold\n<!-- end -->\ny\n"
    written = method.with_tables(page)
    assert written == (
        "x\n<!-- table: one -->\n| a | b\\* |\n| --- | --- |\n| 1\\|2 | 3 |\n<!-- end -->\ny\n"
    )
    assert method.with_tables(written) == written


def test_figures_are_drawn_and_shown():
    drawn = {f"{draw.__name__}.png" for draw in method.FIGURES}
    assert drawn == set(re.findall(r"\]\(figures/(.+?)\)", PAGE))
    assert drawn == {path.name for path in (DOCS / "figures").glob("method_*")}


def test_every_entry_is_measured_but_one():
    of_cases = {advantage for advantage, _ in method.CASES.values()}
    missing = set(advantages.ADVANTAGES) - of_cases
    assert missing == {"remax", "mapo_random"}
    assert method.mapo_random_mean in of_cases


@pytest.mark.parametrize("name", method.LIMITS)
def test_limits_are_those_of_the_code(name):
    w, F = method.LIMITS[name]
    scale = 2 if name == "dr_grpo" else 1
    p, step = np.arange(1, 16) / 16, 1e-6
    np.testing.assert_allclose(w(p), scale * diagnostics.binary(name, 16)["w"][1:-1], rtol=1e-5)
    np.testing.assert_allclose((F(p + step) - F(p - step)) / (2 * step), w(p), rtol=1e-6)
    assert abs(F(0.5)) < 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_verdicts_of_the_tables_hold_for_both_sizes():
    for measure in (diagnostics.reversion, diagnostics.mirror):
        for advantage, options in method.CASES.values():
            small, large = (measure(advantage, G, **options) for G in method.SIZES)
            assert small["binary"] == large["binary"]


def test_numbers_of_the_text():
    def rho(p):
        certainty = 1 - 4 * p * (1 - p)
        return 1 - certainty + certainty * np.sqrt((1 - p) / p)

    p = np.linspace(0.001, 0.999, 999)
    to_maxrl = rho(p) * np.sqrt(p / (1 - p))
    sample = diagnostics.values("grpo", diagnostics.EXAMPLES, ddof=1).min(1)
    certainty = 1 - 4 / 12 * 11 / 12
    for text in (
        f"{rho(1 / 8):.2f} times at 1/8 and {rho(1 / 12):.2f} times at 1/12",
        f"`rho` is {rho(1 / 12):.2f} with it and {1 - certainty + certainty * 11:.2f} without",
        f"between {to_maxrl.min():.2f} and {to_maxrl.max():.2f} for every p",
        f"which gives {sample[1]:.2f}",
    ):
        assert text in PAGE
    assert np.all(np.abs(rho(np.linspace(3 / 8, 5 / 8, 99)) - 1) < 0.02)
    w = method.LIMITS["mapo"][0](np.linspace(0.4, 0.9, 99))
    assert np.all((w > 1.9) & (w < 2.1))


def test_snippet_runs(capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "method.md", "exec"), {})
    out = capsys.readouterr().out
    assert "'share':" in out
    assert "'distance':" in out
