"""Writes docs/explain/results.md, and the tables and pictures of pages and README, from benchmarks/results/*.json.

No figure of a table is typed by hand. A page has its tables between `<!-- results: NAME -->` and `<!-- end -->`, the
README its own between `<!-- overview -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.common import RESULTS
from benchmarks.overview import overview, shown
from taut.compare import draw_points

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs" / "explain"
PAGE = DOCS / "results.md"
SHOWN = (
    "error", "worst error", "balanced_error", "error_one_pass", "seconds_to_3.12", "ap_macro", "auroc_macro", "nll",
    "ece",
    "raw_nll", "raw_ece", "elbo", "annotated_q", "alpha", "bound",
    "surrogate", "gap", "ood_cifar10", "ood_photographs", "ood_digits", "ood_chest", "ood_negative",
    "ood_turned", "ood_noisy",
    "own_error", "decoder_error", "joint_error", "joint_weight",
    "elbo_11", "iw_11", "gap_11", "elbo_12", "iw_12", "gap_12", "bits_per_dim", "exponent of c^k",
    "last over first", "ratio", "loop_ms", "bare_ms", "parameters", "steps", "kept",
    "step_ms", "ms an image", "seconds", "peak MiB", "before MiB", "planned MiB",
)  # fmt: skip
PERCENT = ("error", "worst error", "balanced_error", "error_one_pass", "own_error", "decoder_error", "joint_error")
PAIRED = ("error", "ap_macro", "auroc_macro", "nll", "ece")
LEVEL = 0.95
FEW, ALL = "masked_cross_entropy", "all annotated"  # the ends of the way that a method covers a share of
MARKED = re.compile(r"<!-- results: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
OVERVIEW = re.compile(r"<!-- overview -->\n.*?<!-- end -->", re.DOTALL)


def page(folder: Path = RESULTS) -> str:
    """The page as Markdown: a section for each results file, a row for each method."""
    parts = [
        "# Results",
        "Written by `python -m benchmarks.report` from `benchmarks/results/*.json`, where every draw is recorded. "
        "Figures are mean ± standard deviation over the draws, or those of the only draw; errors are in percent, NLL "
        "and ELBO in nats. `error_one_pass` is without the mean over views, `raw_` before calibration; `kept` is the "
        "step whose weights were kept. `elbo` is eq. 11: of a method that trains no decoder, and of M1+M2, it means "
        "nothing. CIFAR-10 is a JPEG re-encoding, whose pixels differ slightly from the original.",
    ]
    for path in sorted(folder.glob("*.json")):
        parts += section(json.loads(path.read_text()))
        if path.stem in PICTURES:
            parts.append(f"![{path.stem}](pictures/{path.stem}.png)")
    return "\n\n".join(parts) + "\n"


def section(data: dict[str, Any]) -> list[str]:
    """The heading, what was measured and where, and the table of one results file."""
    summary = {method: with_worst(row) for method, row in data["summary"].items()}
    columns = [name for name in SHOWN if any(name in row for row in summary.values())]
    lines = ["| method | draws | " + " | ".join(f"{c}, %" if c in PERCENT else c for c in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    for method, row in summary.items():
        draws = max(cell["n"] for cell in row.values())
        lines.append(f"| {method} | {draws} | " + " | ".join(_of(row.get(c), draws) for c in columns) + " |")
    where = " and ".join(dict.fromkeys(_where(machine) for machine in data["machines"]))
    tables = ["\n".join(lines), *tuned(data), *settings_table(data), *paired_table(data), *shares(data)]
    commits = ", ".join(dict.fromkeys(str(draw["commit"]) for draw in data["draws"] if draw.get("commit")))
    measured = f"`{data['command']}`; {where}" + (f"; measured at {commits}" if commits else "")
    return [f"## {data['benchmark']}", f"{data['about']}. {measured}.", *tables]


def tuned(data: dict[str, Any]) -> list[str]:
    """What each method was tuned to: a sentence, or nothing."""
    found = {draw["method"]: draw["tuned"] for draw in data["draws"] if "tuned" in draw}
    return [f"Tuned: {'; '.join(f'{method}: {choice}' for method, choice in found.items())}."] if found else []


def with_worst(row: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """A method's figures with the error of its worst draw, where there are several."""
    error = row.get("error", {"n": 0})
    return {**row, "worst error": {"mean": error["max"], "n": error["n"]}} if error["n"] > 1 else row


def _where(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    kind = machine["gpu"] or machine["cpu"] + ("" if machine["fast bf16"] else " without fast bfloat16")
    return f"{kind}, {machine['threads']} threads; Python {machine['python']}; {versions}"


def settings_table(data: dict[str, Any]) -> list[str]:
    """The table of a benchmark that measured the same figures at several settings, a row for each, or nothing."""
    methods = list(data["summary"])
    found = [re.fullmatch(r"(k=.*) (ms|MiB)", key) for key in data["summary"][methods[0]]]
    names = list(dict.fromkeys(match[1] for match in found if match))
    if not names:
        return []
    guessed = {(d["method"], name) for d in data["draws"] for name in d["extrapolated"]}
    columns = [(method, unit) for method in methods for unit in ("ms", "MiB")]
    lines = ["| setting | " + " | ".join(f"{method}, {unit}" for method, unit in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 1))
    for name in names:
        cells = []
        for method, unit in columns:
            cell = _cell(data["summary"][method].get(f"{name} {unit}"))
            cells.append(f"{cell} (extrapolated)" if cell and (method, name) in guessed else cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return ["\n".join(lines)]


def differences(data: dict[str, Any], method: str, other: str, figure: str) -> NDArray[np.float64]:
    """The figure of one method less that of another, on every draw that has both: [n]."""
    draws = [d for d in data["draws"] if figure in d]
    first, second = ({d["seed"]: d[figure] for d in draws if d["method"] == name} for name in (method, other))
    return np.array([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of draws [n], two or more, and the half width of its 95 % interval (Student's t)."""
    quantile = float(student.ppf((1 + LEVEL) / 2, len(values) - 1))
    return float(values.mean()), quantile * float(values.std(ddof=1)) / len(values) ** 0.5


def paired_table(data: dict[str, Any]) -> list[str]:
    """taut less every other method, paired by draw, where they share two draws or more; or nothing."""
    first = next((name for name in data["summary"] if name.split(",")[0] in ("taut", "tighter-elbo")), None)
    rows = []
    columns = [name for name in PAIRED if first is not None and name in data["summary"][first]]
    for other in data["summary"]:
        found = {c: differences(data, first, other, c) for c in columns} if first not in (None, other) else {}
        if found and max(map(len, found.values())) > 1:
            cells = [_difference(values) for values in found.values()]
            rows.append(f"| {other} | {max(map(len, found.values()))} | " + " | ".join(cells) + " |")
    if not rows:
        return []
    head = f"{first} less the method, paired by draw, with 95 % intervals:"
    names = " | ".join(f"{c}, %" if c in PERCENT else c for c in columns)
    return [head, "\n".join([f"| method | draws | {names} |", "|" + "---|" * (len(columns) + 2), *rows])]


def _difference(values: NDArray[np.float64]) -> str:
    if len(values) < 2:
        return ""
    mean, half = interval(values)
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def shares(data: dict[str, Any]) -> list[str]:
    """What part of the way from masked cross-entropy to all annotations each method covers: sentences, or nothing."""
    if not {FEW, ALL} <= set(data["summary"]):
        return []
    figure = "ap_macro" if data["benchmark"].startswith("grid") else "auroc_macro"
    parts = []
    for method in [name for name in data["summary"] if name not in (FEW, ALL)]:
        seeds = [{d["seed"] for d in data["draws"] if d["method"] == m and figure in d} for m in (method, FEW, ALL)]
        both = {"draws": [d for d in data["draws"] if d["seed"] in set.intersection(*seeds)]}
        way = differences(both, ALL, FEW, figure)
        if len(way) and way.mean() > 0:
            covered = 100 * float(differences(both, method, FEW, figure).mean() / way.mean())
            parts.append(f"{method} {covered:.0f} %")
    return [f"Of the way in {figure} from {FEW} to {ALL}: {', '.join(parts)}."] if parts else []


def _of(value: dict[str, float] | None, draws: float) -> str:
    """A cell that says so where a figure is not known of every draw, as times that other work spoilt are not."""
    return _cell(value) + (f" (of {value['n']})" if value is not None and value["n"] < draws else "")


def _cell(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    size = abs(value["mean"])
    digits = 0 if size >= 1000 else 1 if size >= 10 else 3
    return shown(value, digits)


def filled(text: str, folder: Path = RESULTS) -> str:
    """A page with its marked tables written anew; a table without a results file says so."""

    def table(found: re.Match[str]) -> str:
        path = folder / f"{found[1]}.json"
        body = "\n\n".join(section(json.loads(path.read_text()))[1:]) if path.exists() else "Not measured yet."
        return f"<!-- results: {found[1]} -->\n{body}\n<!-- end -->"

    text = OVERVIEW.sub(lambda _: f"<!-- overview -->\n{overview(folder)}\n<!-- end -->", text)
    return MARKED.sub(table, text)


# --- pictures -----------------------------------------------------------------------------------------------


def draw_curves(axis: Axes, data: dict[str, Any]) -> None:
    """The surrogate L (line) and the bound B (dashed) over the first draw's training, and on the right Δ = L − B."""
    apart = axis.twinx()
    for draw in (d for d in data["draws"] if d["seed"] == 0):
        seconds = [row["seconds"] for row in draw["curve"]]
        (line,) = axis.plot(seconds, [row["bound"] for row in draw["curve"]], "--")
        if "surrogate" in draw["curve"][-1]:
            values = [row["surrogate"] for row in draw["curve"]]
            axis.plot(seconds, values, color=line.get_color(), label=draw["method"])
            apart.plot(seconds, [row["gap"] for row in draw["curve"]], ":", color=line.get_color())
        else:
            line.set_label(draw["method"])
    axis.set(xlabel="seconds of training", ylabel="B (dashed) and L, nats", ylim=(-250, -80))
    apart.set_yscale("symlog", linthresh=1e-3)  # a sure and wrong classifier has a negative one
    apart.set(ylabel="Δ = L − B (dotted), nats")
    axis.legend(loc="lower right")


def draw_errors(axis: Axes, data: dict[str, Any]) -> None:
    """The test error of snapshots over the seconds of every draw's training, and the error to beat."""
    one = len(data["summary"]) == 1
    for draw in data["draws"]:
        name = f"draw {draw['seed']}" if one else draw["method"] if draw["seed"] == 0 else None
        colour = f"C{draw['seed'] if one else list(data['summary']).index(draw['method'])}"
        axis.plot(*zip(*draw["curve"], strict=True), color=colour, label=name)
    axis.axhline(3.12, color="grey", linestyle="--", label="smooth-ELBO, published")
    axis.set(xlabel="seconds of training", ylabel="test error, %", yscale="log")
    axis.legend()


def draw_cost(axis: Axes, data: dict[str, Any]) -> None:
    """Step time against k, hollow where it is extrapolated."""
    for method in data["summary"]:
        draws = [d for d in data["draws"] if d["method"] == method]
        guessed = set(draws[0]["extrapolated"])
        names = [n for n in data["summary"][method] if n.startswith("k=") and n.endswith(" c=2 ms")]
        points = [(int(n.split()[0][2:]), data["summary"][method][n]["mean"], n[:-3] in guessed) for n in names]
        (line,) = axis.plot([k for k, _, _ in points], [ms for _, ms, _ in points], "-", label=method)
        for k, ms, hollow in points:
            axis.plot(k, ms, "o", color=line.get_color(), markerfacecolor="white" if hollow else None)
    axis.set(xlabel="k yes/no labels", ylabel="milliseconds a step (hollow: extrapolated)", yscale="log")
    axis.legend()


def points(figure: str, label: str) -> Callable[[Axes, dict[str, Any]], None]:
    """A function that draws one figure of every draw of every method."""

    def draw(axis: Axes, data: dict[str, Any]) -> None:
        methods = data["summary"]
        draw_points(
            axis, {m: [d[figure] for d in data["draws"] if d["method"] == m and figure in d] for m in methods}, label
        )

    return draw


PICTURES: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "cross-entropy": draw_curves,
    "label-cost": draw_cost,
    "mnist-speed": draw_errors,
    "stages-seeds": points("error", "test error, %"),
    "stages-draws": points("error", "test error, %"),
    "tightness": points("gap_11", "log p̂(x) − ELBO, nats"),
    "generative-augmented-100": points("error", "error on hidden images, %"),
    "generative-plain-100": points("error", "error on hidden images, %"),
    "rivals-curves": draw_errors,
    "rivals-augmented": points("error", "test error, %"),
    "rivals-plain": points("error", "test error, %"),
}


def pictures(folder: Path = RESULTS, out: Path = DOCS / "pictures") -> None:
    """The pictures of the results that are there."""
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        figure = Figure(figsize=(6, 3.5), dpi=120, layout="constrained")
        draw(figure.subplots(), json.loads(path.read_text()))
        figure.savefig(out / f"{name}.png", metadata={"Software": None})


def main() -> None:
    """Write all of it."""
    PAGE.write_text(page())
    pictures()
    for path in [README, *sorted(DOCS.glob("*.md"))]:
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
