"""`python -m benchmarks report FILE`: docs/benchmarks.md and its plots, from the JSON of a run.

Everything on the page comes from the result, but for what others have published
(`published.md`) and what differs where we lose (`REASONS`). The same result gives the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.plots import Bar, bars, lines
from benchmarks.questions import ABOUT
from benchmarks.report import Result, Row, verdict

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"
PLOTS: Final = REPOSITORY / "docs" / "plots"
PUBLISHED: Final = Path(__file__).with_name("published.md")
OURS: Final = "jido-cluster"
PIVOTED: Final = frozenset({"peers"})  # the same metrics against several systems
# Compared with a part of itself, with a bar or with what bounds it: nobody to lose to.
WITH_ITSELF: Final = frozenset({"growth", "control", "exec", "exec-soak", "cores", "store"})
HIGHER: Final = frozenset({"asks/s", "agents/s", "/s"})  # units of which more is better
# Case and peer -> what differs, as far as it was measured or is known, and what is next. Only shown
# when we lose there.
REASONS: Final = {
    (
        "peers",
        "Erlang/OTP",
    ): "an ask of ours is interpreted Python in client and host, and their CPU "
    "time bounds it ([performance](performance.md)); Erlang's is compiled, and its counter "
    "validates, remembers and commits nothing. Next: less work in each turn",
    (
        "peers",
        "raw Ray actor",
    ): "the CPU time of client and host bounds ours, so that a busy machine "
    "costs it more. Next: less work in each turn",
    ("peers", "xoscar"): "xoscar's counter is an object that gets a message: nothing is validated, "
    "remembered or committed. Next: less work in each turn",
    (
        "startup",
        "three raw actors, first calls",
    ): "a runtime starts a supervisor, a shard host and a "
    "warm worker on each node, founds its root group and elects a leader for each of 256 shards. "
    "That is ten processes and more instead of three, each of which takes 0.7 s of a core to "
    "import Ray and this package",
    (
        "replication",
        "Redis SET, then WAIT 1",
    ): "a durable write costs CPU time on all nodes that hold "
    "it (see growth); the disk alone takes many times as many (see store). Redis writes none here. "
    "Next: less work for each message between replicas",
    ("replication", "Redis SET and WAIT 1 in one message"): "as above; one message less for Redis",
    ("replication", 'durability="none"'): "as above: one copy in memory, against three on disks",
}

TITLES: Final = {
    "asks": "Asks per second, 2048 in flight",
    "widths": "Asks per second by asks in flight",
    "latency": "One ask at a time: median latency",
    "durable": "Durable replicated writes per second, 256 clients",
    "failover": "kill -9 of a node: until its agents answer again",
    "growth": "CPU time of 10,000 calls as nodes are added",
    "control": "What membership costs one node",
}


def write(result: Result) -> None:
    """Write the page and its plots, in place of earlier ones; cases in their own order."""
    cases = {name: result.cases[name] for name in ABOUT if name in result.cases}
    rows = [row for name in cases for row in result.rows if row.case == name]
    result = replace(result, cases=cases, rows=tuple(rows))
    PLOTS.mkdir(parents=True, exist_ok=True)
    found = plots(result)
    for name in TITLES:
        (PLOTS / f"{name}.svg").unlink(missing_ok=True)
    for name, text in found.items():
        (PLOTS / f"{name}.svg").write_text(text, encoding="utf-8")
    PAGE.write_text(markdown(result, list(found)), encoding="utf-8")


def plots(result: Result) -> dict[str, str]:
    """SVG text by name; those whose cases were measured."""
    rounds = {name: about["rounds"] for name, about in result.cases.items()}
    medians = {
        name: f"medians of {count} rounds" if count > 1 else "one round"
        for name, count in rounds.items()
    }
    whiskers = ", lines span them"
    found: dict[str, str] = {}

    def bar_plot(name: str, case: str, metric: str, note: str) -> None:
        rows = [row for row in result.rows if row.case == case and row.metric == metric]
        if rows:
            how = medians[case] + (whiskers if rounds[case] > 1 else "")
            found[name] = bars(TITLES[name], f"{note}; {how}", _sides(rows))

    bar_plot("asks", "peers", "asks per second, 2048 in flight", "two processes, higher is better")
    bar_plot("latency", "peers", "p50, 1 in flight", "ms, two processes, lower is better")
    note = "ours on the disks of a majority, Redis in the memory of two, higher is better"
    bar_plot("durable", "replication", "strong, 256 clients", note)
    away = [row for row in result.rows if row.case == "failover"]
    if away:
        sides = [Bar(f"{OURS}, {row.metric[-3:]}", row.ours, is_ours=True) for row in away]
        how = f"lower is better; {medians['failover']}"
        note = f"seconds; processes end, so that connections close; {how}"
        found["failover"] = bars(
            TITLES["failover"], note, [*sides, Bar(away[0].peer_name, away[0].peer)]
        )
    if widths := _by_width(result.rows):
        points = list(dict.fromkeys(point for line in widths.values() for point in line))
        series = {name: [line.get(point) for point in points] for name, line in widths.items()}
        named = [f"{point} in flight" for point in points]
        note = f"two processes, logarithmic, higher is better; {medians['peers']}"
        found["widths"] = lines(TITLES["widths"], note, named, series, is_log=True)
    if sizes := _growth(result.rows):
        note = f"CPU seconds of all processes, lower is better; {medians['growth']}"
        names = [f"{count} nodes" if count > 1 else "one node" for count in range(1, 5)]
        found["growth"] = lines(TITLES["growth"], note, names, sizes)
    if spent := _control(result.rows):
        note = "each in proportion to a cluster of 10 nodes, virtual time"
        points = list(dict.fromkeys(point for line in spent.values() for point in line))
        series = {name: [line.get(point) for point in points] for name, line in spent.items()}
        found["control"] = lines(TITLES["control"], note, points, series)
    return found


def _sides(rows: Sequence[Row]) -> list[Bar]:
    """Ours and every peer's, the best first."""
    ours = Bar(OURS, rows[0].ours, is_ours=True, spread=rows[0].spread[0])
    found = [ours, *(Bar(row.peer_name, row.peer, spread=row.spread[1]) for row in rows)]
    return sorted(found, key=lambda bar: bar.value, reverse=rows[0].unit in HIGHER)


def _by_width(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.case == "peers" and row.unit == "asks/s":
            width = row.metric.rpartition(", ")[2].removesuffix(" in flight")
            found.setdefault(OURS, {})[width] = row.ours
            found.setdefault(row.peer_name, {})[width] = row.peer
    return found


def _growth(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for row in rows:
        if row.case == "growth":
            kind = row.metric.removeprefix("10,000 calls, ").rpartition(", ")[0]
            found.setdefault(kind, [row.peer]).append(row.ours)
    return found


def _control(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.case == "control":
            what, _, size = row.metric.rpartition(", ")
            name = what.partition(" a node")[0].removesuffix(" of")
            found.setdefault(name, {"10 nodes": 1.0})[size] = row.ratio
    return found


def markdown(result: Result, drawn: Sequence[str]) -> str:
    """The page; `drawn` are the names of the plots that there are."""
    return "\n".join((*_head(result, drawn), *_losses(result), *_cases(result), *_tail(result)))


def _head(result: Result, drawn: Sequence[str]) -> Iterator[str]:
    machine = result.machine
    yield "# Benchmarks"
    yield ""
    yield (
        "The same work on the same machine, by this runtime and by what one would take instead, "
        "side by side in one run of each case. Made by `python -m benchmarks report FILE` from "
        "what `python -m benchmarks all --json FILE` measured; "
        "[benchmarks/README.md](../benchmarks/README.md) says how it is measured. Ratios stand "
        "some noise, absolute figures do not: compare within this run only."
    )
    yield ""
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}; load before the run {machine['load']}."
    )
    yield "Versions: " + ", ".join(f"{name} {text}" for name, text in result.versions.items()) + "."
    if machine["quick"]:
        yield ""
        yield "**Short rounds (`--quick`): for a look, not for a record.**"
    yield ""
    yield verdict(result.rows) + "."
    for name in drawn:
        yield ""
        yield f"![{TITLES[name]}](plots/{name}.svg)"
    yield ""


def is_lost(row: Row) -> bool:
    """Whether the row's bar is missed, or another system did better."""
    if not row.holds:
        return True
    return row.case not in WITH_ITSELF and (row.ratio < 1 if row.unit in HIGHER else row.ratio > 1)


def _losses(result: Result) -> Iterator[str]:
    """Where others are better or a bar is missed, one line for each case and peer."""
    yield "## Where we lose, and what we miss"
    yield ""
    lost: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        if is_lost(row):
            lost.setdefault((row.case, row.peer_name), []).append(row)
    if not lost:
        yield "Nowhere in this run."
    for (case, peer), rows in lost.items():
        told = "; ".join(
            f"{row.metric}: {_figure(row.ours)} against {_figure(row.peer)} {row.unit}"
            + ("" if row.holds else f" (**misses {row.bar}**)")
            for row in rows
        )
        reason = REASONS.get((case, peer))
        yield f"- **{case}, {peer}**: {told}." + (f" What differs: {reason}." if reason else "")
    yield ""


def _cases(result: Result) -> Iterator[str]:
    for name, about in result.cases.items():
        yield f"## {name}"
        yield ""
        yield f"{about['question']} `python -m benchmarks {name}`"
        yield ""
        yield f"- Unit of work: {about['work']}."
        yield f"- Warm-up: {about['warm_up']}."
        yield f"- Rounds: {about['rounds']}; {about['order']}."
        yield ""
        rows = [row for row in result.rows if row.case == name]
        yield from _pivot(rows) if name in PIVOTED else _table(rows)
        yield ""


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| what | ours | peer | unit | ratio | bar | spread | peer is |"
    yield "| --- | ---: | ---: | --- | ---: | --- | --- | --- |"
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar} {'holds' if row.holds else '**missed**'}"
        yield (
            f"| {row.metric} | {_figure(row.ours)} | {_figure(row.peer)} | {row.unit} "
            f"| {_figure(row.ratio)}x | {bar} | {_spread(row)} | {row.peer_name} |"
        )


def _pivot(rows: Sequence[Row]) -> Iterator[str]:
    """One line for each metric, one column for each system; then the bars."""
    names = list(dict.fromkeys(row.peer_name for row in rows))
    yield " | ".join(("| what", "unit", OURS, *names)) + " |"
    yield "| --- | --- |" + " ---: |" * (1 + len(names))
    for metric in dict.fromkeys(row.metric for row in rows):
        found = {row.peer_name: row for row in rows if row.metric == metric}
        first = next(iter(found.values()))
        figures = [_figure(found[name].peer) if name in found else "" for name in names]
        cells = (metric, first.unit, f"**{_figure(first.ours)}**", *figures)
        yield f"| {' | '.join(cells)} |"
    yield ""
    spreads = [max(row.spread) for row in rows] or [0.0]
    yield f"Spread of the rounds, (max - min) / median: up to {max(spreads):.0%}."
    for row in rows:
        if row.bar is not None:
            word = "holds" if row.holds else "**missed**"
            yield (
                f"- {row.metric}, against {row.peer_name}: {_figure(row.ratio)}x, "
                f"bar {row.bar} {word}"
            )


def _tail(result: Result) -> Iterator[str]:
    if result.left_out:
        yield "## Left out of this run"
        yield ""
        yield from (f"- {line}" for line in result.left_out)
        yield ""
    yield PUBLISHED.read_text(encoding="utf-8").rstrip()
    yield ""


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _spread(row: Row) -> str:
    ours, peer = row.spread
    return f"{ours:.0%} / {peer:.0%}"
