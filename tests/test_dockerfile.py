"""The Dockerfile follows its rules; CI builds it where Docker runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = [
    (word, rest)
    for word, _, rest in (line.partition(" ") for line in (ROOT / "Dockerfile").read_text().splitlines())
    if word and not word.startswith("#")
]


def rest_of(word: str) -> list[str]:
    return [rest for name, rest in STEPS if name == word]


def test_every_line_is_an_instruction() -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in STEPS} <= known


def test_the_base_is_pinned() -> None:
    bases = {rest.split(" AS ")[0] for rest in rest_of("FROM")}
    assert len(bases) == 1 and re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases.pop())


def test_pytorch_is_the_one_that_the_tests_run_with() -> None:
    pinned = re.search(r"^torch==\S+", (ROOT / "tests/constraints.txt").read_text(), re.MULTILINE)
    assert pinned and any(rest.endswith(f"whl/cpu {pinned[0]}") for rest in rest_of("RUN"))


def test_it_runs_as_an_ordinary_user() -> None:
    user = rest_of("USER")[-1]
    assert user not in ("root", "0")
    assert any(f"useradd --create-home {user} " in rest for rest in rest_of("RUN"))
    after = [word for word, _ in STEPS[STEPS.index(("USER", user)) :]]
    assert "RUN" in after and "COPY" not in after


def test_the_build_starts_the_command() -> None:
    assert STEPS[-3:] == [
        ("RUN", "stemsplit --help"),
        ("ENTRYPOINT", '["stemsplit"]'),
        ("CMD", '["--help"]'),
    ]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    sources = {name for rest in rest_of("COPY") if "--from" not in rest for name in rest.split()[:-1]}
    assert sources == allowed and all((ROOT / name).exists() for name in sources)
