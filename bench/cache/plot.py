#!/usr/bin/env python3
"""Plots JSON lines of `blockattn_cachebench zipf` as SVG: plot.py simulated.jsonl [real.jsonl] > cache-hits.svg. Needs nothing but Python."""
import json
import sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 380, 60, 40, 90, 50


def read(path):
    return sorted((json.loads(line) for line in open(path)), key=lambda row: row["budget"])


def x_of(share):
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def y_of(value, most):
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most


def curve(rows, key, most, colour, dash=""):
    points = " ".join(f"{x_of(r['budget']):.1f},{y_of(r[key], most):.1f}" for r in rows)
    dots = "".join(f'<circle cx="{x_of(r["budget"]):.1f}" cy="{y_of(r[key], most):.1f}" r="3" fill="{colour}"/>' for r in rows)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" {dash}/>{dots}'


def text(x, y, words, anchor="middle", colour="#333", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{words}</text>'


def main():
    simulated = read(sys.argv[1])
    real = read(sys.argv[2]) if len(sys.argv) > 2 else []
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for i in range(0, 11, 2):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(i, 10):.1f}" y2="{y_of(i, 10):.1f}" stroke="#ddd"/>')
        out.append(text(LEFT - 8, y_of(i, 10) + 4, f"{i * 10} %", "end"))
        out.append(text(x_of(i / 10), HEIGHT - BOTTOM + 18, f"{i * 10} %"))
    out.append(text(x_of(0.5), HEIGHT - 12, "byte budget, of all passages' blocks"))
    out.append(text(x_of(0.5), 22, f"{simulated[0]['requests']:,} requests of 3 passages, Zipf over 2,000 passages", size=14))
    out.append(curve(simulated, "hit_ratio", 1, "#1f6fb2"))
    out.append(text(x_of(0.62), y_of(simulated[-5]["hit_ratio"], 1) - 12, "hit ratio, the cache with made-up blocks", colour="#1f6fb2"))
    if real:
        most = max(r["ttft_ms_mean"] for r in real) * 1.1
        out.append(curve(real, "hit_ratio", 1, "#2a9d4a", 'stroke-dasharray="4 3"'))
        out.append(text(x_of(0.6), y_of(real[-1]["hit_ratio"], 1) + 18, f"hit ratio, first {real[0]['requests']} requests on a model", colour="#2a9d4a"))
        out.append(curve(real, "ttft_ms_mean", most, "#c2452d", 'stroke-dasharray="2 3"'))
        out.append(text(x_of(0.55), y_of(real[1]["ttft_ms_mean"], most) + 20, "mean time to first token (right)", colour="#c2452d"))
        for i in range(0, 5):
            out.append(text(WIDTH - RIGHT + 8, y_of(most * i / 4, most) + 4, f"{most * i / 4:.0f} ms", "start", "#c2452d"))
    out.append("</svg>")
    print("\n".join(out))


main()
