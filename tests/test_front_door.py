"""What a newcomer meets first: public names, two command lines, and help that answers at once."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ifa_ray
import simulator
from ifa_ray import cli
from simulator import __main__ as world

LINES = {"ifa_ray": cli.COMMANDS, "simulator": world.COMMANDS}
HEAVY = ("torch", "ray", "polars", "numba", "pyarrow")


@pytest.mark.parametrize("package", [ifa_ray, simulator], ids=lambda module: module.__name__)
def test_public_names_are_there_and_no_others(package):
    assert len(package.__all__) <= 30
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'rankers'"):
        package.rankers  # noqa: B018


@pytest.mark.parametrize("package", LINES)
def test_help_names_every_command_and_loads_nothing_heavy(package):
    code = (
        f"import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_module({package!r}, run_name='__main__')\n"
        f"finally: print('loaded', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "loaded []", done
    for name, (_, text) in LINES[package].items():
        assert name in done.stdout
        assert text.split()[0] in done.stdout


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in LINES for name in LINES[package]]
)
def test_every_command_has_help_of_its_own(package, name, capsys):
    main = {"ifa_ray": cli.main, "simulator": world.main}[package]
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"{package} {name}" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["ifa-ray", "ifa-sim"])
def test_installed_command_lines_know_their_version(script):
    path = Path(sys.executable).parent / script
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{script} {ifa_ray.__version__}\n"
    assert f"usage: {script}" in subprocess.run(
        [path, "--help"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


@pytest.mark.parametrize("package", LINES)
def test_unknown_command_is_refused_with_those_there_are(package, capsys):
    with pytest.raises(SystemExit) as end:
        {"ifa_ray": cli.main, "simulator": world.main}[package](["no-such-thing"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in LINES[package])


def test_modules_of_commands_are_there():
    for commands in LINES.values():
        for module, _ in commands.values():
            importlib.import_module(module)
