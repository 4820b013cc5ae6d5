"""Which package may import which: the directions of the design, and where Ray may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ifa_ray", "simulator", "benchmarks")
FILES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)

RAY_AT_HOME = (
    "ifa_ray/serving/", "ifa_ray/training/trainer.py", "simulator/run/ray_",
    "benchmarks/serving.py",
)  # fmt: skip

# They are measured on machines without Ray or tables.
TORCH_AND_NUMPY = (
    "ifa_ray/__init__.py", "ifa_ray/models/", "ifa_ray/cuda/", "ifa_ray/ranking/",
    "ifa_ray/reranking/", "ifa_ray/schema.py", "ifa_ray/errors.py", "ifa_ray/config.py",
    "ifa_ray/schema.py", "ifa_ray/ranking_rule.py", "ifa_ray/data/__init__.py",
    "ifa_ray/data/items.py", "ifa_ray/data/history.py", "ifa_ray/data/features.py", "benchmarks/",
)  # fmt: skip

# They measure what only a served ranker has.
SERVED = (
    "benchmarks.serving", "benchmarks.serving_load",
)  # fmt: skip

# They hold kernels, and are loaded where there is a GPU, or an interpreter was asked for.
TRITON_AT_HOME = "_triton.py"

# What a part of ifa_ray must not know, directly. Each lies above it, or beside it.
ABOVE_RANKING = ("ifa_ray.training", "ifa_ray.serving", "ifa_ray.evaluation", "ifa_ray.abtest",
                 "ifa_ray.cli")  # fmt: skip
ABOVE_MODELS = (*ABOVE_RANKING, "ifa_ray.ranking", "ifa_ray.checkpoints", "ifa_ray.cuda")
FORBIDDEN = {
    "ifa_ray": ("simulator", "tests", "benchmarks"),
    "ifa_ray.schema": (*ABOVE_MODELS, "ifa_ray.models", "ifa_ray.data"),
    "ifa_ray.config": (*ABOVE_MODELS, "ifa_ray.models", "ifa_ray.data"),
    "ifa_ray.data": (*ABOVE_MODELS, "ifa_ray.models", "ifa_ray.reranking"),
    "ifa_ray.reranking": (*ABOVE_MODELS, "ifa_ray.models"),
    "ifa_ray.metrics": (*ABOVE_MODELS, "ifa_ray.models"),
    "ifa_ray.models": ABOVE_MODELS,
    "ifa_ray.checkpoints": (*ABOVE_RANKING, "ifa_ray.ranking", "ifa_ray.cuda"),
    "ifa_ray.ranking": (*ABOVE_RANKING, "ifa_ray.cuda"),
    "ifa_ray.cuda": ABOVE_RANKING,
    "ifa_ray.training": ("ifa_ray.serving", "ifa_ray.abtest", "ifa_ray.evaluation", "ifa_ray.cli"),
    "ifa_ray.serving": ("ifa_ray.abtest", "ifa_ray.evaluation", "ifa_ray.training", "ifa_ray.cli"),
    "ifa_ray.evaluation": ("ifa_ray.serving", "ifa_ray.cli"),
    "ifa_ray.abtest": (
        "ifa_ray.models", "ifa_ray.ranking", "ifa_ray.training", "ifa_ray.serving",
        "ifa_ray.evaluation", "ifa_ray.cli",
    ),
    "simulator.world": ("simulator.run", "simulator.cli", "simulator.studies"),
    "benchmarks": ("ifa_ray.serving", "ifa_ray.abtest", "ifa_ray.cli"),
    **{
        f"benchmarks.{name}": ("simulator",)
        for name in (
            "gpu", "gpu_page", "gpu_rates", "kernels", "machine", "rank_latency", "synthetic",
        )
    },
}  # fmt: skip


def module_name(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source):
    """Every module that a source text names in an import, wherever the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            # `from ifa_ray import serving` names a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_at_load(source):
    """As `imported`, of the statements that run when the module is imported."""

    def statements(body):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            for part in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, part, []))

    for node in statements(ast.parse(source).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(ast.unparse(node))


def is_in(module, package):
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_ray_is_imported_only_where_it_is_at_home(path):
    if not str(path).startswith(RAY_AT_HOME):
        found = [name for name in imported((ROOT / path).read_text()) if is_in(name, "ray")]
        assert found == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_one_way(path):
    here = module_name(path)
    for package, above in FORBIDDEN.items():
        if is_in(here, package):
            if package == "benchmarks" and here in SERVED:
                above = tuple(name for name in above if name != "ifa_ray.serving")
            for name in imported((ROOT / path).read_text()):
                assert not any(is_in(name, other) for other in above), f"{here} imports {name}"


# The world's own costs are measured where the world is, and those of serving where Ray is.
HEAVY = (
    "benchmarks/world", "benchmarks/serving",
)  # fmt: skip
LIGHT_FILES = [
    path
    for path in FILES
    if str(path).startswith(TORCH_AND_NUMPY) and not str(path).startswith(HEAVY)
]


@pytest.mark.parametrize("path", LIGHT_FILES, ids=str)
def test_models_and_measurements_import_torch_and_numpy_alone(path):
    allowed = {*sys.stdlib_module_names, "torch", "numpy", *PACKAGES}
    if path.name.endswith(TRITON_AT_HOME):
        allowed.add("triton")
    for name in imports_at_load((ROOT / path).read_text()):
        assert name.partition(".")[0] in allowed, name


def test_models_and_measurements_load_on_a_machine_without_ray_and_tables():
    modules = sorted(
        module_name(path) for path in LIGHT_FILES if not path.name.endswith(TRITON_AT_HOME)
    )
    blocked = [
        "triton",
        "ray",
        "polars",
        "pyarrow",
        "pandas",
        "scipy",
        "fastapi",
        "pydantic",
        "httpx",
    ]
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None: importing it raises
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_unit_tests_cannot_start_ray():
    import ray

    with pytest.raises(AssertionError, match="mark it `cluster`"):
        ray.init()


def test_these_checks_see_imports_of_every_form():
    source = (
        "import ray.serve as s\n"
        "from ifa_ray import serving\n"
        "def f():\n    from simulator.run.ray_executor import run\n"
        "try:\n    import polars\nexcept ImportError:\n    polars = None\n"
    )
    names = set(imported(source))
    assert {"ray.serve", "ifa_ray.serving", "simulator.run.ray_executor", "polars"} <= names
    at_load = set(imports_at_load(source))
    assert {"ray.serve", "ifa_ray.serving", "polars"} <= at_load
    assert "simulator.run.ray_executor" not in at_load
