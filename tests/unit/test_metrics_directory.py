"""The directory of the metrics that the workers share."""

from pathlib import Path

from metrics_directory import MetricsDirectory, metrics_directory


def test_given_directory_is_emptied_of_metrics_alone_and_kept(tmp_path: Path) -> None:
    for name in ("counter_0.db", "0.lock", "somebody's.txt"):
        (tmp_path / name).touch()
    directory = MetricsDirectory(tmp_path)
    directory.make()
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's.txt"]
    directory.remove()
    assert tmp_path.exists()


def test_given_directory_is_made(tmp_path: Path) -> None:
    MetricsDirectory(tmp_path / "a" / "b").make()
    assert (tmp_path / "a" / "b").is_dir()


def test_own_directory_is_for_nobody_else_and_goes_with_us() -> None:
    directory = MetricsDirectory(None)
    assert not directory.path.exists()
    directory.make()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    directory.remove()
    assert not directory.path.exists()


def test_own_directory_stays_the_same_when_the_settings_are_read_again() -> None:
    assert metrics_directory(None) is metrics_directory(None)
    assert MetricsDirectory(None).path != MetricsDirectory(None).path
