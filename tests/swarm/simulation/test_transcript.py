import pytest

from swarm.simulation.transcript import Transcript, first_difference


def told(*times: float, keep: bool = True) -> Transcript:
    transcript = Transcript(keep=keep)
    for time in times:
        transcript.note(time, "mail/", "anna", "boris", 100)
    return transcript


def test_equal_happenings_have_equal_digests_in_whatever_batches_they_were_hashed() -> None:
    a = told(*range(2000))
    b = Transcript()
    for time in range(2000):
        b.note(time, "mail/", "anna", "boris", 100)
        if time % 7 == 0:
            b.digest()
    assert a.digest() == b.digest()
    assert len(a) == len(b) == 2000
    assert first_difference(a, b) is None


def test_order_and_every_field_count() -> None:
    digests = {told(1, 2).digest(), told(2, 1).digest(), told(1).digest(), Transcript().digest()}
    for what, source, target, size in (
        ("x", "a", "b", 1),
        ("y", "a", "b", 1),
        ("x", "b", "b", 1),
        ("x", "a", "a", 1),
        ("x", "a", "b", 2),
    ):
        transcript = Transcript()
        transcript.note(0, what, source, target, size)
        digests.add(transcript.digest())
    assert len(digests) == 9


def test_times_differ_in_their_last_bit() -> None:
    assert told(0.1 + 0.2).digest() != told(0.3).digest()


def test_the_first_difference_names_the_line_and_both_versions() -> None:
    index, line_a, line_b = first_difference(told(1, 2, 3), told(1, 2.5, 3)) or (0, "", "")
    assert (index, line_a.split()[0], line_b.split()[0]) == (1, "2", "2.5")


def test_a_transcript_that_ends_early_differs_where_it_ends() -> None:
    assert first_difference(told(1), told(1, 2)) == (1, "", "2 anna boris 100 mail/")


def test_lines_are_kept_only_where_they_are_asked_for() -> None:
    assert told(1, keep=False).lines == []
    with pytest.raises(ValueError, match="keep=True"):
        first_difference(told(1, keep=False), told(2, keep=False))
