"""Tests what all commands share: text files, hints for typos, missing packages, early exits."""

from __future__ import annotations

import builtins
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inception_jax import extras, interrupts, outputs, text_files
from inception_jax.names import TAGS, matching
from inception_jax.nearest import did_you_mean, nearest
from inception_jax.registry import list_models
from tests.helpers.networks import filled

ROOT = Path(__file__).parents[2]
NAMES = ("cat", "great white shark, man-eater", "Bär")


def written(tmp_path, content: bytes | str, name: str = "names.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain", "\n".join(NAMES)),
        ("mark", "\ufeff" + "\n".join(NAMES)),
        ("windows", "\r\n".join(NAMES) + "\r\n\r\n"),
        ("old mac", "\r".join(NAMES)),
        ("utf-16", "\n".join(NAMES).encode("utf-16")),
        ("blanks", "# classes\n\n" + " \u00a0\t\n".join(f"  {name}" for name in NAMES) + "\t\n \n"),
        ("separators", ";\r\n".join(NAMES) + ";"),
        ("one line", ";".join(NAMES)),
        ("one line with blanks", " ; ".join(NAMES) + "\n"),
        ("tabs", "\t".join(NAMES)),
    ],
)
def test_class_names_however_they_were_saved(tmp_path, name, content):
    assert text_files.read_class_names(written(tmp_path, content), 3) == NAMES


@pytest.mark.parametrize(
    "content",
    [
        'class,images\ncat,1\n"great white shark, man-eater",2\nBär,3\n',
        '\ufeffClass;images\r\ncat;1\r\n"great white shark, man-eater";2\r\n\r\nBär;3\r\n',
        "index\tname\n0\tcat\n1\tgreat white shark, man-eater\n2\tBär\n",
    ],
)
def test_class_names_of_a_table(tmp_path, content):
    assert text_files.read_class_names(written(tmp_path, content, "classes.csv"), 3) == NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cat\ndog\n", "has 2 names for 3 classes"),
        ("cat\n\n\ndog\nBär\nfox", "has 4 names for 3 classes"),
        ("", "names nothing"),
        ("\n# only this\n", "names nothing"),
        ("cat\ndog\nBär".encode("latin-1"), r"line 3: byte 0xe4 is not UTF-8.*iconv"),
        ("cat\ndog\nBär".encode("utf-16")[2:], "line 1: holds a zero byte"),
        ("0;cat\n1;dog\n2;fox", "line 1: '0;cat' is more than a name"),
        ("cat\n1,dog\nfox", "line 2: '1,dog' is more than a name"),
        ("cat\nn02\tdog\nfox", "line 2: "),
        ("cat;dog", "2 names for 3 classes"),
        ("cat;;dog", "line 1: a name is empty"),
    ],
)
def test_class_names_that_are_refused(tmp_path, content, words):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=words) as error:
        text_files.read_class_names(path, 3)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_without_names_is_refused(tmp_path):
    path = written(tmp_path, "images,top1\n3,0.5\n", "classes.csv")
    with pytest.raises(ValueError, match="line 1: the header 'images,top1' has no column class"):
        text_files.read_class_names(path, 1)
    path = written(tmp_path, "images,class\n3,cat\n4\n", "classes.csv")
    with pytest.raises(ValueError, match="line 3: has no column `class`"):
        text_files.read_class_names(path, 2)
    with pytest.raises(OSError, match="No such file"):
        text_files.read_class_names(tmp_path / "absent", 2, OSError)


def test_a_name_that_comes_twice_is_told(tmp_path):
    path = written(tmp_path, "crane\ncat\ncrane\n")
    with pytest.warns(UserWarning, match="line 3: 'crane' is also the name on line 1"):
        assert text_files.read_class_names(path, 3) == ("crane", "cat", "crane")


# ---- Near misses ----


def test_near_misses():
    known = ["batch-size", "learning-rate", "lr-floor", "arch"]
    assert nearest("BatchSize", known) == ["batch-size"]
    assert nearest("lr", known, {"lr": "learning-rate"}) == ["learning-rate"]
    assert nearest("model", known, {"model": "absent"}) == []
    assert did_you_mean("qqq", known) == ""
    assert did_you_mean("batch", known, prefix="--") == "; did you mean --batch-size?"
    two = did_you_mean("x", known, {"x": ("arch", "lr-floor")})
    assert two == "; did you mean arch or lr-floor?"


def test_the_table_of_names_is_the_registrys():
    assert sorted(TAGS) == list(TAGS) == [name for name in list_models() if name != "tiny"]
    assert matching(tags=True) == list_models(tags=True)
    for pattern in ("inception*", "xception4*", "*.fid", "nothing"):
        assert matching(pattern, tags=True) == list_models(pattern, tags=True)


# ---- Missing packages ----


@pytest.mark.parametrize("module", sorted(extras.EXTRAS))
def test_every_extra_is_named_by_the_package_that_is_missing(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for ask in (extras.require, extras.check):
        with pytest.raises(KeyError) as error:
            ask(module, "this", KeyError)
        assert f"pip install 'inception-jax[{extras.EXTRAS[module]}]'" in error.value.args[0]
        assert "\n" not in error.value.args[0]
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {*extras.EXTRAS.values(), "train"} <= set(declared)


def test_a_package_that_is_broken_says_why(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError("libhdf5.so: cannot open\nmore")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "h5py", raising=False)
    monkeypatch.setattr(extras.importlib, "import_module", broken)
    with pytest.raises(
        ValueError, match=r"h5py, which cannot be imported \(libhdf5.so: cannot open\)"
    ):
        extras.require("h5py", "this")


# ---- Early ends ----

SLOW = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background ignores
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from inception_jax.interrupts import run_command
from inception_jax.outputs import atomic_write
def command():
    with atomic_write(Path(sys.argv[1])) as partial:
        partial.write_text("half")
        print("writing", flush=True)
        time.sleep(30)
sys.exit(run_command(command))
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "interrupted\n"), (signal.SIGHUP, 129, "")],
)
def test_a_signal_leaves_no_partial_file(tmp_path, number, code, said):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "x")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    started = time.monotonic()
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == said
    assert process.returncode == code
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_signals_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    assert interrupts.run_command(lambda: 7) == 7
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_old_partial_file_does_not_stop_a_write(tmp_path):
    with outputs.atomic_write(tmp_path / "x") as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_conversion_that_cannot_be_written_reads_nothing(tmp_path, monkeypatch, capsys):
    """A conversion checks packages and paths before it reads the weights."""
    from inception_jax.cli import commands, convert

    monkeypatch.setattr(convert, "model_of", lambda *_: pytest.fail("the weights were read"))
    for file, module in (("x.pth", "torch"), ("x.h5", "h5py")):
        monkeypatch.setitem(sys.modules, module, None)
        words = ["convert", "a.safetensors", str(tmp_path / file), "--arch", "xception.keras_in1k"]
        assert commands.main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "pip install 'inception-jax[" in err


def test_a_published_file_that_cannot_be_read_is_not_fetched(monkeypatch):
    from inception_jax.weights import download, weight_file
    from inception_jax.weights.weights_error import WeightsError

    monkeypatch.setattr(download, "fetch", lambda _: pytest.fail("fetched"))
    # PyTorch's files need no PyTorch.
    for name, module in (("xception.keras_in1k", "h5py"), ("inception_v1.slim_in1k", "tensorflow")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(WeightsError, match=r"pip install 'inception-jax\["):
            weight_file.open_weights(name, True)


def test_stablehlo_without_flatbuffers(tmp_path, monkeypatch):
    import inception_jax as ij

    model = filled("inception_v1", num_classes=2, width_multiplier=0.05)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ij.ExportError, match=r"pip install 'inception-jax\[stablehlo\]'"):
        ij.export(model, tmp_path / "x.stablehlo", "stablehlo")
