"""The files around the code agree with it and with each other."""

import hashlib
import itertools
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import page
import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import binder
from bears.classifier import VERSIONED

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHON, ENVIRONMENT = "3.11", ("page", "heic", "train", "lab", "binder")  # of environment.yml

PLOTS = {"enough", "lr-find", "confusion", "reliability", "novelty-plot", "robustness-plot"}  # they show no photo


def fixed(environment: dict[str, str]) -> dict[str, str]:
    """The versions in constraints.txt, by name, for that environment."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    return {
        requirement.name: str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_constraints_txt_fixes_everything_that_pyproject_asks_for(python, system):
    """Changed a dependency? DEVELOP.md has the command that writes it anew."""
    versions = fixed({"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system})
    for requirement in map(Requirement, [*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values())]):
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_pythons_that_are_stated_are_tested():
    stated = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert stated <= set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"])
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in stated)


def test_every_licence_is_listed():
    """LICENCES.md says how the list was made. NVIDIA's packages come with torch for CUDA only."""
    listed = set(re.findall(r"^\| ([\w.-]+) \| \d", (ROOT / "LICENCES.md").read_text(), re.M))
    listed = set(map(canonicalize_name, listed))
    found, waiting = set(), [Requirement(f"{PROJECT['name']}[{','.join(ENVIRONMENT)}]")]
    while waiting:
        requirement = waiting.pop()
        for line in metadata.requires(requirement.name) or []:
            further = Requirement(line)
            extras = requirement.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                if (key := (canonicalize_name(further.name), *sorted(further.extras))) not in found:
                    found.add(key)
                    waiting.append(further)
    missing = {name for name, *_ in found} - listed
    assert not {name for name in missing if not name.startswith(("nvidia-", "cuda-", "triton"))}


def test_forked_kernels_installs_by_itself_and_with_what_the_page_has(tmp_path):
    project = tomllib.loads((ROOT / "forked_kernels" / "pyproject.toml").read_text())["project"]
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(ROOT / "forked_kernels")]
    subprocess.run([sys.executable, "-m", *install], check=True)
    assert (tmp_path / "forked_kernels" / "server.py").exists()
    (found,) = metadata.distributions(name="forked_kernels", path=[str(tmp_path)])
    (point,) = found.entry_points.select(group="jupyter_client.kernel_provisioners")
    ours = PROJECT["entry-points"]["jupyter_client.kernel_provisioners"]
    assert ours == project["entry-points"]["jupyter_client.kernel_provisioners"] == {point.name: point.value}
    versions = fixed({"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux"})
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_environment_yml_installs_what_pyproject_states():
    """To serve and to train, on Binder: the exact versions that are tested."""
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    option, *requirements = pip["pip"]
    assert option == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert conda == [f"python={PYTHON}", "pip"]
    asked = [*PROJECT["dependencies"], *(line for extra in ENVIRONMENT for line in EXTRAS[extra])]
    names = {canonicalize_name(Requirement(line).name) for line in asked}
    versions = fixed({"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux"})
    assert sorted(requirements) == sorted(f"{name}=={versions[name]}" for name in names)


def test_binder_installs_the_same():
    """A folder named binder/ makes Binder ignore the environment.yml at the top."""
    assert (ROOT / "binder" / "environment.yml").read_bytes() == (ROOT / "environment.yml").read_bytes()


def test_the_template_that_voila_finds_is_the_one_in_this_folder():
    """It is copied when the project is installed. Changed it? Then: pip install --no-deps -e ."""
    installed = Path(sys.prefix, "share", "jupyter", "voila", "templates", "bears")
    for file in filter(Path.is_file, (ROOT / "template").rglob("*")):
        assert (installed / file.relative_to(ROOT / "template")).read_bytes() == file.read_bytes(), file.name


def test_the_script_of_the_page_was_built_from_its_sources():
    """Changed them? Then, in frontend/: npm ci && npm run build"""
    lines = (ROOT / "template" / "frontend.html.j2").read_text()
    sources = sorted(file for file in (ROOT / "frontend").iterdir() if file.suffix in (".js", ".json"))
    assert hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest() in lines
    for name, version in re.findall(r"static }}([\w.]+)\?v=(\w+)", lines):
        assert hashlib.sha256((ROOT / "template" / "static" / name).read_bytes()).hexdigest().startswith(version)


def test_the_released_export_was_made_by_the_stated_versions():
    made_by = yaml.safe_load((ROOT / "MODEL_CARD.md").read_text().split("---\n")[1])["versions"]
    assert made_by.pop("python") in SpecifierSet(PROJECT["requires-python"])
    assert set(made_by) == set(VERSIONED)
    assert {f"{name}=={version}" for name, version in made_by.items()} <= set(EXTRAS["page"])


@pytest.mark.parametrize("name", ["app.ipynb", "training.ipynb"])
def test_notebooks_hold_no_trace_of_the_run_and_no_photo(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "title"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert cell.execution_count is None
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("execution_count") is None
                pictures = {kind for kind in output.get("data", {}) if kind.startswith("image/")}
                assert pictures <= ({"image/png"} if cell.id in PLOTS else set())
                assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def test_the_readme_begins_with_the_two_commands():
    """The second is what .ci/run runs."""
    blocks = [block.split("```")[0] for block in (ROOT / "README.md").read_text().split("```sh\n")[1:]]
    serve, test = (block.splitlines() for block in blocks[:2])
    assert len(serve) == len(test) == 1
    assert "voila app.ipynb" in serve[0] and "pytest" in test[0]


@pytest.mark.parametrize("readme", page.READMES)
def test_the_readme_tells_what_was_measured(readme):
    """After another run of it, or: .venv/bin/python benchmarks/page.py --from-results"""
    results = json.loads(page.RESULTS.read_text())
    assert page.described(results, readme) in readme.read_text()


def test_deploy_tells_what_was_measured():
    """After another run of it, or: .venv/bin/python benchmarks/binder.py --from-results"""
    results = json.loads(binder.RESULTS.read_text())
    assert binder.described(results) in binder.README.read_text()
