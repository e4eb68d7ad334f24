from swarm.simulation.transcript import Transcript


def transcript_of(*times: float, keep: bool = True) -> Transcript:
    transcript = Transcript(keep=keep)
    for time in times:
        transcript.note(time, "mail/", "anna", "boris", 100)
    return transcript


def test_equal_events_have_equal_digests_in_whatever_batches_they_were_hashed() -> None:
    a = transcript_of(*range(2000))
    b = Transcript()
    for time in range(2000):
        b.note(time, "mail/", "anna", "boris", 100)
        if time % 7 == 0:
            b.digest()
    assert a.digest() == b.digest()
    assert len(a) == len(b) == 2000


def test_order_and_every_field_count() -> None:
    digests = {
        transcript_of(1, 2).digest(),
        transcript_of(2, 1).digest(),
        transcript_of(1).digest(),
        Transcript().digest(),
    }
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
    assert transcript_of(0.1 + 0.2).digest() != transcript_of(0.3).digest()


def test_lines_are_kept_only_where_they_are_asked_for() -> None:
    for keep, lines in ((True, ["1 anna boris 100 mail/\n", "2 anna boris 100 mail/\n"]), (False, [])):
        transcript = transcript_of(1, 2, keep=keep)
        transcript.digest()
        assert transcript.lines == lines
