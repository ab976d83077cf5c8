"""Example systems that read text: each learns its embedded task, and what of them is no network follows its rule."""

import gzip
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytest.importorskip("click", reason="the examples take their arguments with click")

ROOT = Path(__file__).parents[2]
EXAMPLES, DATA = ROOT / "examples", ROOT.parent / "shared" / "data"


def load_example(name):
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["sentiment", "pos_tagger", "josa"])
def test_it_learns_its_embedded_task_and_says_the_same_for_the_same_seed(name):
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, EXAMPLES / f"{name}.py", "--quick", "--seed", "3"],
            env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            capture_output=True, encoding="utf-8", timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] != ""


@pytest.mark.parametrize(
    ("word", "tag", "expected"),
    [
        ("백설공주", "이/가", "백설공주가"),
        ("왕", "이/가", "왕이"),
        ("동물들", "과/와", "동물들과"),
        ("아이", "과/와", "아이와"),
        ("숲속", "(으)로", "숲속으로"),
        ("학교", "(으)로", "학교로"),
        ("서울", "(으)로", "서울로"),  # ㄹ is like a vowel here,
        ("서울", "(이)나", "서울이나"),  # and only here
        ("집", "에+은/는", "집에는"),
        ("집", "(으)로+은/는", "집으로는"),
        ("UN", "은/는", "UN는"),  # its sound is not known
        ("숲", "-", "숲"),
        ("이야기하다", "하다>한다", "이야기한다"),
        ("때문", ">이다", "때문이다"),
    ],
)
def test_a_particle_takes_the_form_that_goes_with_the_final_consonant(word, tag, expected):
    josa = load_example("josa")
    assert josa.with_particle(word, tag) == expected


def test_an_edit_is_what_makes_the_written_word_of_the_bare_one():
    josa = load_example("josa")
    classes = {"가": "이/가"}
    assert josa.edit("공주", "공주가", classes) == "이/가"
    assert josa.edit("때문", "때문이다.", classes) == ">이다"
    assert josa.edit("숲", "숲", classes) == josa.NONE
    assert josa.edit("놀다", "논다.", classes) == "놀다>논다"


def test_the_rule_gives_the_particles_of_a_treebank():
    path = DATA / "josa_kaist" / "tag_test.tsv.gz"
    if not path.exists():
        pytest.skip("no ../shared/data/josa_kaist")
    josa = load_example("josa")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    rows = [line.split("\t") for line in lines if line.count("\t") == 3]
    rows = [(stem, surface, tag) for stem, surface, tag, _ in rows if tag != josa.NONE]
    wrong = [stem for stem, surface, tag in rows if josa.with_particle(stem, tag) != stem + surface]
    assert len(wrong) < len(rows) / 500
    assert sum("가" <= stem[-1] <= "힣" for stem in wrong) <= 1  # the others end in digits or Latin letters
