"""The documentation runs, its links lead somewhere, and its references are complete."""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]

LANGUAGES = {"python", "bash", "console", "text", "json", "makefile"}
SHELL_PAGES = ("README.md", "docs/tutorial/", "docs/how-to/")
COVERED_ELSEWHERE = {"docs/reference/format.md": "tests/store/test_format_page.py"}

FENCE = re.compile(
    r"(?P<marker>^<!--[^\n]*-->\n)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```[ ]*$", re.DOTALL | re.MULTILINE
)
NOT_RUN = re.compile(r"<!-- not run: *(?P<reason>.*?) *-->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    reason: str | None  # why it is not run; None where it is


def blocks(text: str) -> list[Block]:
    found = []
    for fence in FENCE.finditer(text):
        marked = NOT_RUN.match(fence["marker"] or "")
        line = text.count("\n", 0, fence.start("code"))
        found.append(Block(fence["language"].strip(), fence["code"], line, marked["reason"] if marked else None))
    return found


def prose(text: str) -> str:
    """The page without its blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def run_python(block: Block, page: str, names: dict[str, object]) -> None:
    # Blank lines before the code make tracebacks name the line of the page.
    exec(compile("\n" * block.line + block.code, page, "exec"), names)


def run_shell(block: Block) -> None:
    code = block.code
    if block.language == "console":
        code = "\n".join(line[2:] for line in code.splitlines() if line.startswith(("$ ", "> ")))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        timeout=300,
    )
    assert done.returncode == 0, f"line {block.line + 1}:\n{code}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", IDS)
def test_every_block_runs_or_says_why_not(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if page in COVERED_ELSEWHERE:
        assert page.rpartition("/")[2] in (ROOT / COVERED_ELSEWHERE[page]).read_text("utf-8")
        return
    shutil.copytree(ROOT / "tests" / "data", tmp_path / "tests" / "data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks((ROOT / page).read_text("utf-8")):
        if block.reason is not None:
            continue
        if block.language == "python":
            run_python(block, page, names)
        elif block.language in ("bash", "console") and page.startswith(SHELL_PAGES):
            run_shell(block)


@pytest.mark.parametrize("page", IDS)
def test_every_block_has_a_language_and_every_marker_a_reason_and_a_block(page: str):
    text = (ROOT / page).read_text("utf-8")
    found = blocks(text)
    assert {block.language for block in found} <= LANGUAGES
    assert [block.line for block in found if block.reason == ""] == []
    assert len(re.findall(r"^[ ]*```", text, re.MULTILINE)) == 2 * len(found), "a fence is indented or not closed"
    marked = sum(block.reason is not None for block in found)
    assert len(re.findall(r"^[ ]*<!--\s*not run", text, re.MULTILINE)) == marked, (
        "a marker stands on the line before its block"
    )


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", IDS)
def test_every_relative_link_leads_somewhere(page: str):
    text = prose((ROOT / page).read_text("utf-8"))
    links = [*re.findall(r"\]\(([^)\s]+)", text), *re.findall(r"(?:src|href)=\"([^\"]+)\"", text)]
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_command_reference_is_up_to_date():
    pytest.importorskip("torch", reason="the help of act ingest needs the extra")
    from tests.generate_cli_reference import PAGE, page

    assert PAGE.read_text("utf-8") == page(), "run `make docs`"


PACKAGES = ["actlas.store", "actlas.ingest", "actlas.analyze"]


def import_package(package: str) -> ModuleType:
    if package == "actlas.ingest":
        pytest.importorskip("torch", reason="actlas.ingest needs the extra")
    return importlib.import_module(package)


def reference_rows() -> dict[str, set[str]]:
    """For each package of docs/reference/python.md the names that begin the rows of its table."""
    text = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    sections = re.split(r"^## `?(actlas\.\w+)`?$", text, flags=re.MULTILINE)[1:]
    return {
        package: set(re.findall(r"^\| `(\w+)[^`]*` \|", section, re.MULTILINE))
        for package, section in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_the_python_reference_names_what_is_public_and_nothing_else(package: str):
    assert reference_rows()[package] == set(import_package(package).__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package: str):
    module = import_package(package)
    public = {name: getattr(module, name) for name in module.__all__}
    documented = {name: value for name, value in public.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert [name for name, value in documented.items() if not (vars(value).get("__doc__") or value.__doc__)] == []
    methods = [
        f"{name}.{attribute}"
        for name, value in documented.items()
        if inspect.isclass(value)
        for attribute, method in vars(value).items()
        if not attribute.startswith("_") and (inspect.isfunction(method) or isinstance(method, property))
        if not inspect.getdoc(method)
    ]
    assert methods == []
