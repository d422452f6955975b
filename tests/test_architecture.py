"""architecture rules that the linters cannot check"""

import ast
import importlib.metadata
import io
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from launch.plan import cost_estimate
from launch.recipes import registry

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("data_prep", "training", "eval", "launch")
PACKAGES = sorted(
    str(path.parent.relative_to(ROOT))
    for stage in STAGES
    for path in (ROOT / stage).rglob("__init__.py")
)
TOP_LEVEL = {
    "data_prep", "training", "eval", "launch", "tests", "docker", "pyproject.toml", "README.md",
    "Makefile", "LICENSE", "CHANGELOG.md", "RESULTS.md", "constraints.txt",
}  # fmt: skip
MODULES = sorted(path for stage in STAGES for path in (ROOT / stage).rglob("*.py"))
MAX_PURPOSE_CHARS = 88
MAX_TEST_NAME_CHARS = 70


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def purpose(path: Path) -> str:
    """The first line of a module's docstring."""
    docstring = ast.get_docstring(syntax_tree(path))
    assert docstring, f"{path.relative_to(ROOT)} has no docstring"
    return docstring.splitlines()[0]


def drawn_tree(folder: Path, indent: str = "") -> list[str]:
    """A package's tree as its README shows it: per entry, the first line of its docstring."""
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and path.stem != "__init__":
            lines.append(f"{indent + path.name:<31} {purpose(path)}")
        elif (path / "__init__.py").exists():
            lines.append(f"{indent + path.name + '/':<31} {purpose(path / '__init__.py')}")
            lines += drawn_tree(path, indent + "  ")
    return lines


def tracked_files() -> list[str]:
    return subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_the_readme_of_a_package_shows_its_tree(stage: str):
    tree = "\n".join(drawn_tree(ROOT / stage))
    assert tree in (ROOT / stage / "README.md").read_text(), (
        f"the tree in {stage}/README.md should be:\n\n{tree}\n"
    )


def test_the_first_docstring_line_of_a_module_is_short():
    too_long = {
        str(path.relative_to(ROOT)): len(purpose(path))
        for path in MODULES
        if len(purpose(path)) > MAX_PURPOSE_CHARS
    }
    assert not too_long, f"at most {MAX_PURPOSE_CHARS} characters; shorten: {too_long}"


def test_no_two_classes_of_the_product_have_the_same_name():
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    recurring = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not recurring, f"rename for what they are: {recurring}"


def test_a_message_of_an_error_has_no_unfilled_braces():
    def raised_texts(path: Path):
        raises = (node for node in ast.walk(syntax_tree(path)) if isinstance(node, ast.Raise))
        for statement in raises:
            # those that fill their own templates: pydantic's errors, str.format
            fills = {"PydanticCustomError", "format"}
            words = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(statement)}
            if not fills & words:
                nodes = list(ast.walk(statement))
                texts = (node.values for node in nodes if isinstance(node, ast.JoinedStr))
                parts = {id(part) for values in texts for part in values}
                yield from (
                    node
                    for node in nodes
                    if isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in parts
                )

    unfilled = [
        f"{path.relative_to(ROOT)}:{text.lineno} {text.value!r} lacks its f prefix"
        for path in MODULES
        for text in raised_texts(path)
        if re.search(r"\{[a-z_A-Z'][^{}]*\}", str(text.value))
    ]
    assert unfilled == []


def test_names_of_tests_are_short():
    too_long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > MAX_TEST_NAME_CHARS
    ]
    assert not too_long, f"at most {MAX_TEST_NAME_CHARS} characters; shorten: {too_long}"


def test_no_file_names_this_machine_or_a_package_registry():
    """A path or a registry of the machine where something was written helps nobody else."""
    words = [r"(?<![\w}])/(?:work|root)/", "py" + "pi", "python" + "hosted"]
    pattern = re.compile("|".join(words))
    lines = [
        f"{name}:{number}"
        for name in tracked_files()
        for number, line in enumerate((ROOT / name).read_bytes().splitlines(), 1)
        if pattern.search(line.decode(errors="replace"))
    ]
    assert not lines


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_holds_at_most_twelve_entries(package: str):
    entries = [
        path.name
        for path in (ROOT / package).iterdir()
        if path.name not in ("__init__.py", "__pycache__", "README.md")
    ]
    assert len(entries) <= 12, sorted(entries)


@pytest.mark.slow  # collects every test in a process of its own
def test_every_test_file_is_collected():
    """pytest skips folders of some names, such as `build`, unless norecursedirs is set."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "tests"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    collected = set(re.findall(r"^(tests/\S+\.py)(?:::|: )", listed, re.MULTILINE))
    files = {name for name in tracked_files() if re.search(r"/test_\w+\.py$", name)}
    assert files and sorted(files - collected) == []


def test_the_top_level_holds_only_the_agreed_entries():
    entries = {name.split("/")[0] for name in tracked_files()}
    assert {name for name in entries if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("package", PACKAGES)
def test_an_init_file_holds_one_docstring_only(package: str):
    body = syntax_tree(ROOT / package / "__init__.py").body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


def test_no_module_shadows_an_installed_one():
    """`python training/pretrain.py` puts training/ first on sys.path, where a module `queue` would
    replace Python's.
    """
    installed = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    assert (
        sorted(path.stem for path in MODULES if path.stem != "__init__" and path.stem in installed)
        == []
    )


def test_nobody_imports_an_entry_module():
    entries = {
        str(path.relative_to(ROOT))[:-3].replace("/", ".")
        for path in MODULES
        if purpose(path).startswith("ENTRY")
    }
    assert entries >= {
        "data_prep.build_streams",
        "training.pretrain",
        "eval.evaluate_run",
        "launch.sweep",
        "launch.status",
    }
    for path in MODULES:
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.ImportFrom):
                imported = {node.module or ""} | {
                    f"{node.module}.{alias.name}" for alias in node.names
                }
            elif isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
            else:
                continue
            assert not imported & entries, f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("name", registry.RECIPES)
def test_every_recipe_builds_and_its_plan_prints(name: str):
    console = Console(file=io.StringIO(), width=250)
    experiment = registry.named(name)
    console.print(cost_estimate.render(experiment, cost_estimate.device_named("H100"), 0.4))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(run.run_id in printed for run in experiment.runs())


def test_launchs_readme_lists_exactly_the_flags_of_the_sweep():
    usage = subprocess.run(
        [sys.executable, "launch/sweep.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    flags = set(re.findall(r"^  (--[a-z]+)", usage.stdout, re.MULTILINE))
    readme = (ROOT / "launch/README.md").read_text()
    listed = set(re.findall(r"^\| `(--[a-z]+)", readme, re.MULTILINE))
    assert flags and listed == flags


@pytest.mark.parametrize(
    "command",
    [
        ["launch/sweep.py", "--plan", "--recipe", "paper"],
        ["launch/sweep.py", "--settings"],
        ["launch/status.py", "--help"],
        ["launch/sweep.py", "--help"],
    ],
    ids=" ".join,
)
def test_light_commands_start_without_heavy_imports(command: list[str]):
    heavy = {"torch", "ray", "deepspeed", "transformers", "tokenizers", "pyarrow"}
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"print('loaded', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded []"
