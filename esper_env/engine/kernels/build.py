"""Builds and finds the library of `native.py`: `python -m esper_env.engine.kernels`.

It lies in torch's cache of extensions, in a folder named by what it depends on: its sources, torch, the
flags and the CPU: a library that is out of date, or of another machine with the same home, is never loaded.
It is compiled with torch's compiler and paths, but not by `torch.utils.cpp_extension.load`: that needs ninja,
and it waits forever for a build that was interrupted.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-Wno-psabi")
"""Never -ffast-math: values that are not finite must stay what they are."""


def path() -> Path:
    """Where the library of this machine is, or would be."""
    key = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.[ch]*")):
        key.update(source.name.encode() + source.read_bytes())
    key.update(repr((torch.__version__, FLAGS, sys.platform, platform.machine(), _cpu())).encode())
    return _cache() / f"esper_env_{key.hexdigest()[:16]}" / "kernels.so"


@cache
def load() -> bool:
    """Load the library if it was built; whether it was. Compiles nothing."""
    library = path()
    if not library.exists():
        return False
    torch.ops.load_library(library)
    return True


def build() -> Path:
    """Compile the library, if that was not done yet, and tell where it is.

    Raises:
        FileNotFoundError: there is no compiler.
        subprocess.CalledProcessError: it failed; its messages are in `stderr`.
    """
    library = path()
    if library.exists():
        return library
    # Only here: the import takes a second, and looks for CUDA.
    from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

    compiler = shutil.which(get_cxx_compiler())
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler: {get_cxx_compiler()} was not found, CXX names another")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        compiled = _compile([compiler, *FLAGS, *(f"-I{each}" for each in include_paths())], Path(folder))
        made = _link([compiler, *FLAGS, *compiled, *(f"-L{each}" for each in library_paths())], Path(folder))
        made.replace(library)  # at once: another process sees all of it or nothing
    return library


def _cache() -> Path:
    """Where torch keeps extensions, by its own rules."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or default)


def _cpu() -> str:
    """What the CPU can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _compile(command: list[str], folder: Path) -> list[str]:
    """The objects of all sources, compiled side by side."""

    def one(source: Path) -> str:
        result = str(folder / f"{source.stem}.o")
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
        _run([*command, abi, "-c", str(source), "-o", result])
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, sorted(SOURCES.glob("*.cpp"))))


def _link(command: list[str], folder: Path) -> Path:
    result = folder / "kernels.so"
    _run([*command, "-shared", "-ltorch_cpu", "-ltorch", "-lc10", "-o", str(result)])
    return result


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def main() -> int:
    """Build and say what was done; the exit status."""
    try:
        sys.stdout.write(f"native kernels: {build()}\n")
    except FileNotFoundError as error:
        sys.stdout.write(f"{error}; torch primitives will be used\n")
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{error.stderr}\nthe compiler failed; torch primitives will be used\n")
    return 0
