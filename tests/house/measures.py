"""Measures of the house: lines, files, rooms, and which file imports which."""

import ast
import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ifa_ray", "simulator")
CLAUSE = re.compile(r'"""(?:What|Which|Whether|How|When|Whose|From which) ')
FMT = re.compile(r"# fmt: (?:skip|off)")

# Optional rooms and files: they hang on the core by hooks, and the core does not import them.
OPTIONAL = (
    "ifa_ray.cuda", "ifa_ray.models.modules", "ifa_ray.serving.extensions",
    "simulator.environments", "simulator.calibration",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    name: str
    value: int
    aim: int
    details: tuple[str, ...] = ()


def all_measures():
    """Every figure that needs no run of the program."""
    files = production_files()
    texts = {path: path.read_text() for path in files}
    tests = [path for path in tracked("tests") if path.suffix == ".py"]
    folders = Counter(path.parent.relative_to(ROOT) for path in files)
    imports = import_graph(files)
    circles = strongly_connected(imports)
    depth, chain = longest_chain(imports)
    lone = lone_files(files, imports, texts)
    hung = [
        f"{name} -> {other}"
        for name, others in sorted(imports.items())
        for other in sorted(others)
        if is_in(other, OPTIONAL) and not is_in(name, OPTIONAL)
    ]
    full = [f"{n} in {folder}" for folder, n in folders.most_common() if n > 15]
    return [
        Measure("lines of production code", sum(lines(text) for text in texts.values()), 24_000),
        Measure("files of production code", len(files), 170),
        Measure("lines of tests", sum(lines(path.read_text()) for path in tests), 20_000),
        Measure("files in the fullest folder", max(folders.values()), 15, tuple(full)),
        Measure("import depth", depth, 12, (" -> ".join(chain),)),
        Measure("import circles", len(circles), 0, tuple(map(", ".join, circles))),
        Measure("imports from the core into optional features", len(hung), 0, tuple(hung)),
        Measure("files of under 80 lines with one importer", len(lone), 20, tuple(lone)),
        Measure("fmt: skip", count(FMT, texts), 25),
        Measure("docstrings that open with a clause", count(CLAUSE, texts), 20),
    ]


def tracked(folder):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return sorted(
        path for name in filter(None, listed.stdout.split("\0")) if (path := ROOT / name).is_file()
    )


def production_files():
    return [path for top in PACKAGES for path in tracked(top) if path.suffix == ".py"]


def lines(text):
    return text.count("\n")


def count(pattern, texts):
    return sum(len(pattern.findall(text)) for text in texts.values())


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(module, packages):
    return any(module == each or module.startswith(each + ".") for each in packages)


def import_graph(files):
    """Each module's imports of ours, wherever the statement stands."""
    modules = {module_name(path): path for path in files}
    graph = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [each for each in inner if each in modules]
                if len(found) < len(inner):
                    found.append(node.module)
            else:
                continue
            graph[name].update(each for each in found if each in modules and each != name)
    return graph


def strongly_connected(graph):
    """Circles: sets of modules that reach each other."""
    reach = {name: reachable(graph, name) for name in graph}
    found = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def reachable(graph, start):
    seen, rest = set(), [start]
    while rest:
        for other in graph[rest.pop()] - seen:
            seen.add(other)
            rest.append(other)
    return seen


def longest_chain(graph):
    """The longest way from a module down its imports; modules of one circle count once."""
    known = {}

    def chain(name, above):
        if name not in known:
            ways = [chain(each, above | {name}) for each in graph[name] if each not in above]
            known[name] = [name, *max(ways, key=len, default=[])]
        return known[name]

    longest = max((chain(name, frozenset()) for name in sorted(graph)), key=len)
    return len(longest), longest


def lone_files(files, graph, texts):
    """Small files that one other alone imports: candidates to be part of it."""
    importers = defaultdict(set)
    for name, others in graph.items():
        for other in others:
            importers[other].add(name)
    return [
        f"{path.relative_to(ROOT)} ({lines(texts[path])})"
        for path in files
        if len(importers[module_name(path)]) == 1
        and lines(texts[path]) < 80
        and path.name not in ("__init__.py", "__main__.py")
    ]
