"""A dictionary with a bound."""

from user_service.recent import Recent


def test_what_is_kept_is_found() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.keep("a", 1)
    assert recent.get("a") == 1
    assert recent.get("b") is None


def test_what_was_kept_first_goes_first() -> None:
    recent: Recent[int, int] = Recent(3)
    for number in range(5):
        recent.keep(number, number)
    assert [recent.get(number) for number in range(5)] == [None, None, 2, 3, 4]


def test_what_is_kept_again_is_new_and_takes_no_other_room() -> None:
    recent: Recent[int, str] = Recent(2)
    recent.keep(1, "old")
    recent.keep(2, "")
    recent.keep(1, "new")
    recent.keep(3, "")
    assert recent.get(1) == "new"
    assert recent.get(2) is None
