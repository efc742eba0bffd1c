"""Files and folders are written whole or not at all."""

from pathlib import Path

import pytest

from lpft_utils.common.files import whole


def write(place: Path, content: str, folder: bool) -> None:
    if folder:
        place.mkdir()
    (place / "inner" if folder else place).write_text(content)


def read(place: Path) -> str:
    return (place / "inner" if place.is_dir() else place).read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_complete_takes_its_place_and_leaves_nothing_beside_it(folder, tmp_path):
    path = tmp_path / "new" / "result.json"
    for content in ("first", "second"):
        with whole(path) as partial:
            assert partial.suffix == path.suffix
            write(partial, content, folder)
            assert content == "first" or read(path) == "first", "the old one stands until the new one is complete"
        assert read(path) == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_one_and_nothing_else(folder, error, tmp_path):
    path = tmp_path / "result"
    write(path, "old", folder)
    with pytest.raises(error), whole(path) as partial:
        write(partial, "half", folder)
        raise error
    assert read(path) == "old" and list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_take_its_place_gives_the_old_one_back(tmp_path, monkeypatch):
    path, replace = tmp_path / "result", Path.replace
    write(path, "old", folder=True)

    def refuse_the_new_one(source: Path, target: Path) -> Path:
        if target == path and source.name == path.name:
            raise PermissionError
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse_the_new_one)
    with pytest.raises(PermissionError), whole(path) as partial:
        write(partial, "new", folder=True)
    assert read(path) == "old" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole(path):
        pass
    assert path.read_text() == "old"
