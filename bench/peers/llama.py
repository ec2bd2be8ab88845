"""llama.cpp as a peer: its pinned sources from PyPI, built for this machine, and its own benchmark run."""

import json
import pathlib
import subprocess
import sys
import tarfile

VERSION = "0.3.36"  # of llama-cpp-python, whose source package holds all of llama.cpp
SOURCES = f"llama_cpp_python-{VERSION}"
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TOOLS=ON",
]


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """The folder of llama.cpp's sources, downloaded and unpacked if they aren't there yet."""
    sources = folder / SOURCES / "vendor" / "llama.cpp"
    if not sources.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python",
                        "--dest", str(folder), f"llama-cpp-python=={VERSION}"], check=True)
        with tarfile.open(folder / f"{SOURCES}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return sources


def build(folder: pathlib.Path, jobs: int) -> pathlib.Path:
    """The llama-bench program, built with -march=native if it isn't there yet."""
    program = folder / "build" / "bin" / "llama-bench"
    if not program.exists():
        sources = fetch(folder)
        subprocess.run(["cmake", "-S", str(sources), "-B", str(folder / "build"), *OPTIONS], check=True)
        subprocess.run(["cmake", "--build", str(folder / "build"), "--target", "llama-bench", f"-j{jobs}"], check=True)
    return program


def command(program: pathlib.Path, model: pathlib.Path, test: str, threads: int) -> list[str]:
    size = test[2:]
    prompt, generated = (size, "0") if test.startswith("pp") else ("0", size)
    return [str(program), "-m", str(model), "-p", prompt, "-n", generated, "-t", str(threads), "-r", "1", "-o", "json"]


def run(arguments: list[str]) -> dict:
    """The one row that a benchmark program prints as JSON; both programs use llama-bench's names."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)[0]
