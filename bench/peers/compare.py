#!/usr/bin/env python3
"""blockattn against llama.cpp: the same file, threads and lengths, taken in turn in one run.

Each round runs every test once in each program (the order alternates), each in a process of its own with a warm-up of its own; what is reported are medians over
the rounds, and the median, least and greatest of the rounds' ratios. Writes results.json, results.md and two plots. Needs Python 3.11, cmake and a compiler.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import llama
import plot

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "blockattn" / "peers"


def absolute(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser().resolve()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=absolute, action="append", required=True, help="GGUF file; may be given several times")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prompts", default="512,2048,8192", help="prompt lengths (default: %(default)s)")
    parser.add_argument("-n", "--generations", default="64", help="tokens generated (default: %(default)s)")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--ttft", default="512,2048,8192", help="prompt lengths of the time to first token, empty: none")
    parser.add_argument("--query", type=int, default=50, help="tokens of the question behind the passages")
    parser.add_argument("--blockattn-bench", type=absolute, default=HERE.parents[1] / "build/release/bin/blockattn_bench")
    parser.add_argument("--microbench", type=absolute, help="blockattn_microbench, for the machine's limits")
    parser.add_argument("--llama-bench", type=absolute, help="an llama-bench there is; otherwise it is fetched and built")
    parser.add_argument("--build", type=absolute, default=CACHE, help="where llama.cpp is built (default: %(default)s)")
    parser.add_argument("-o", "--output", type=absolute, default=pathlib.Path("peers"))
    return parser.parse_args()


def ours(options: argparse.Namespace, model: pathlib.Path, test: str) -> dict:
    return llama.run(llama.command(options.blockattn_bench, model, test, options.threads))


def theirs(options: argparse.Namespace, model: pathlib.Path, test: str) -> dict:
    return llama.run(llama.command(options.llama_bench, model, test, options.threads))


def tests_of(options: argparse.Namespace) -> list[str]:
    lengths = [f"pp{n}" for n in options.prompts.split(",") if n] + [f"tg{n}" for n in options.generations.split(",") if n]
    return [t for t in lengths if t[2:] != "0"]


def compare(options: argparse.Namespace, model: pathlib.Path, test: str, note) -> dict:
    """All rounds of one test."""
    mine, peers, rows = [], [], {}
    for r in range(options.rounds):
        for side in (("ours", "theirs") if r % 2 == 0 else ("theirs", "ours")):
            row = ours(options, model, test) if side == "ours" else theirs(options, model, test)
            (mine if side == "ours" else peers).append(row["avg_ts"])
            rows[side] = row
        note(f"{model.name} {test} round {r + 1}/{options.rounds}: {mine[-1]:.1f} against {peers[-1]:.1f} t/s")
    ratios = [a / b for a, b in zip(mine, peers)]
    return {"model": model.name, "test": test, "threads": options.threads,
            "ours": statistics.median(mine), "theirs": statistics.median(peers), "ratio": statistics.median(ratios),
            "ratio_least": min(ratios), "ratio_most": max(ratios), "samples_ours": mine, "samples_theirs": peers,
            "isa": rows["ours"]["isa"], "build_ours": rows["ours"]["build"],
            "build_theirs": f"llama-cpp-python {llama.VERSION}, build {rows['theirs'].get('build_number', '?')}",
            "type_k": [rows["ours"]["type_k"], rows["theirs"].get("type_k", "?")]}


def first_token(options: argparse.Namespace, model: pathlib.Path, length: str, note) -> dict:
    """Time to first token of one length: our full attention, all passages cached, and llama.cpp's prefill of as many tokens."""
    rounds = []
    for r in range(options.rounds):
        row = llama.run([str(options.blockattn_bench), "ttft", "-m", str(model), "--lengths", length, "--query", str(options.query), "-t", str(options.threads),
                         "-r", "1", "-o", "json"])
        peer = 1000 * int(length) / theirs(options, model, f"pp{length}")["avg_ts"]
        rounds.append((row["full_ms"], row["block_ms"], peer))
        note(f"{model.name} ttft {length} round {r + 1}/{options.rounds}: full {row['full_ms']:.1f}, cached {row['block_ms']:.1f}, llama.cpp {peer:.1f} ms")
    full, block, peer = (statistics.median(column) for column in zip(*rounds))
    return {"model": model.name, "length": int(length), "query": options.query, "full_ms": full, "block_ms": block, "llama_ms": peer,
            "block_of_full": statistics.median(r[1] / r[0] for r in rounds), "block_of_llama": statistics.median(r[1] / r[2] for r in rounds), "samples": rounds}


def roofline(options: argparse.Namespace) -> list[dict]:
    """What the machine can do at most, as blockattn_microbench measures it: operations or bytes a second of one thread and of all."""
    if options.microbench is None:
        return []
    done = subprocess.run([str(options.microbench), "--benchmark_filter=^roofline/", "--benchmark_format=json"], capture_output=True, text=True, check=True)
    rows = [(b["name"].split("/")[1], b["threads"], b.get("op/s", b.get("bytes_per_second"))) for b in json.loads(done.stdout)["benchmarks"]]
    return [{"limit": name, "threads": threads, "per_second": value} for name, threads, value in rows if value is not None]


def processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(report: dict) -> str:
    out = [f"{report['machine']}, {report['threads']} threads, {report['isa']}; {report['build_theirs']}; medians of {report['rounds']} interleaved rounds, "
           f"ratio with least and greatest\n", "| model | test | blockattn t/s | llama.cpp t/s | ratio |", "|---|---|---:|---:|---:|"]
    out += [f"| {r['model']} | {r['test']} | {r['ours']:.1f} | {r['theirs']:.1f} | **{r['ratio']:.2f}** ({r['ratio_least']:.2f}-{r['ratio_most']:.2f}) |"
            for r in report["speed"]]
    if report["ttft"]:
        out += ["", f"Time to first token, {report['query']}-token question behind passages of 150 tokens:\n",
                "| model | tokens | full ms | all cached ms | llama.cpp full ms | cached / full | cached / llama.cpp |", "|---|---:|---:|---:|---:|---:|---:|"]
        out += [f"| {r['model']} | {r['length']} | {r['full_ms']:.1f} | {r['block_ms']:.1f} | {r['llama_ms']:.1f} | {100 * r['block_of_full']:.2f} % | "
                f"{100 * r['block_of_llama']:.2f} % |" for r in report["ttft"]]
    if report["roofline"]:
        out += ["", "Limits: " + ", ".join(f"{b['limit']} {b['per_second'] / 1e9:.0f} G/s ({b['threads']} threads)" for b in report["roofline"])]
    return "\n".join([*out, ""])


def plots(report: dict, folder: pathlib.Path) -> None:
    for model in sorted({r["model"] for r in report["speed"]}):
        rates = [r for r in report["speed"] if r["model"] == model and r["test"].startswith("pp")]
        lines = {side: [(int(r["test"][2:]), r[key]) for r in rates] for side, key in (("blockattn", "ours"), ("llama.cpp", "theirs"))}
        if rates:
            (folder / f"prefill-{model}.svg").write_text(plot.svg(f"Prefill, {model}", "tokens of the prompt", "tokens a second", lines), encoding="utf-8")
        times = [r for r in report["ttft"] if r["model"] == model]
        lines = {side: [(r["length"], r[key]) for r in times] for side, key in (("llama.cpp", "llama_ms"), ("full attention", "full_ms"), ("passages cached", "block_ms"))}
        if times:
            (folder / f"ttft-{model}.svg").write_text(plot.svg(f"Time to first token, {model}", "tokens of the prompt", "milliseconds", lines), encoding="utf-8")


def main() -> None:
    options = parse()
    if options.llama_bench is None:
        options.llama_bench = llama.build(options.build, os.cpu_count() or 1)

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    speed = [compare(options, model, test, note) for model in options.model for test in tests_of(options)]
    ttft = [first_token(options, model, n, note) for model in options.model for n in options.ttft.split(",") if n]
    report = {"machine": f"{processor()}, {os.cpu_count()} processors", "threads": options.threads, "rounds": options.rounds, "query": options.query,
              "isa": speed[0]["isa"] if speed else "", "build_theirs": speed[0]["build_theirs"] if speed else "", "command": " ".join(sys.argv),
              "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "speed": speed, "ttft": ttft, "roofline": roofline(options)}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.output / "results.md").write_text(table(report), encoding="utf-8")
    plots(report, options.output)
    print(table(report))


if __name__ == "__main__":
    main()
