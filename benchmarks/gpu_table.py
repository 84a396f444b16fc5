"""The results of the benchmark for GPUs as text."""

from __future__ import annotations

__all__ = ["lines"]

STEPS = ("base", "merged", "live, factored", "live, through the weight", "live, as planned", "PEFT")
SHORT = ("base ms", "merged", "factored", "through", "as planned", "PEFT")


def lines(results: dict[str, list[dict]]) -> list[str]:
    """A table of steps, of training and merging, of the layers' sums, of each kind of layer, and the constants."""
    if not results:
        return []
    rows = [row for row in results["steps"] if "ms" in row]
    out = ["A step, of the base's; peak memory in MiB over the weights"]
    out += _table([("", *SHORT, "layers through", "from merged"), *map(_step, rows)])
    out += _table([("", *SHORT), *map(_peak, rows)])
    out += [
        "",
        "A changed strength by merge: ms, GB/s, of a copy of the same size. A training step: of the base's, MiB",
    ]
    out += _table(
        [("", "ms", "GB/s", "of a copy", "base ms", "ours", "PEFT", "MiB", "ours", "PEFT"), *map(_rest, rows)]
    )
    for row in results["steps"]:
        out += [f"{_case(row)}: {part} failed: {error}" for part, error in row.get("errors", {}).items()]
    out += ["", "All updated layers, each kind timed alone: of the base's"]
    names = ("factored", "through", "as planned", "by the fitted constants", "at best")
    sums = [(_case(row), *(_ratio(row["of the base"], name) for name in names)) for row in results["sums"]]
    out += _table([("", *names), *sums])
    out += ["", "A layer's call in µs: base, then what each way adds (and handle.plan()'s estimate of it)"]
    out += _table([("", "layers", "base", "factored", "through", "planned", "better"), *map(_layer, results["layers"])])
    for found in results["constants"]:
        values = ", ".join(f"{value:.2g}" for value in found.values())
        out += ["", f"Fitted to these layers: Rates({values})  # {', '.join(found)}"]
    return out


def _case(row: dict) -> str:
    return f"{row['case']}, {row['form']}"


def _ratio(values: dict, name: str) -> str:
    return f"{values[name]:.3f}" if name in values else "–"


def _mebibytes(values: dict, name: str) -> str:
    return "–" if values.get(name) is None else f"{values[name]:.0f}"


def _step(row: dict) -> tuple[str, ...]:
    ms = f"{row['ms']['base']:.1f}" if "base" in row["ms"] else "–"
    ratios = (_ratio(row["of the base"], name) for name in STEPS[1:])
    share, error = row.get("share through the weight"), row.get("difference from merged")
    return (
        _case(row),
        ms,
        *ratios,
        "–" if share is None else f"{share:.0%}",
        "–" if error is None else f"{error:.1e}",
    )


def _peak(row: dict) -> tuple[str, ...]:
    return (_case(row), *(_mebibytes(row["peak MiB"], name) for name in STEPS))


def _rest(row: dict) -> tuple[str, ...]:
    ms, speed = row.get("changed strength ms", {}), row.get("changed strength GB/s", {})
    merge = [f"{values['merge']:.1f}" if values else "–" for values in (ms, speed)]
    share = row.get("changed strength, of a copy")
    base, ratios = row.get("training ms", {}).get("base"), row.get("training of the base", {})
    step = ("–" if base is None else f"{base:.1f}", *(_ratio(ratios, name) for name in ("ours", "PEFT")))
    peaks = row.get("training peak MiB", {})
    return (
        _case(row),
        *merge,
        "–" if share is None else f"{share:.2f}",
        *step,
        *(_mebibytes(peaks, name) for name in ("base", "ours", "PEFT")),
    )


def _layer(row: dict) -> tuple[str, ...]:
    both = []
    for name in ("factored", "through"):
        estimate = row["estimated us"][name]
        both.append(f"{row['added us'][name]:.0f} ({'–' if estimate is None else f'{estimate:.0f}'})")
    name = f"{_case(row)}: {row['layer']}"
    return (name, str(row["count"]), f"{row['base us']:.0f}", *both, row["planned"], row["better"])


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their cells; the first to the left, numbers to the right."""
    first, *others = ([max(map(len, column)), *column] for column in zip(*rows, strict=True))
    columns = [[cell.ljust(first[0]) for cell in first[1:]]]
    columns += [[cell.rjust(width) for cell in column] for width, *column in others]
    return ["  ".join(row) for row in zip(*columns, strict=True)]
