import hashlib

import pytest

from sparsetune.randomness import derive


def test_seed_is_the_first_63_bits_of_the_hash_of_its_names():
    digest = hashlib.sha256(b"7\0str:phase\0int:1").hexdigest()
    assert derive(7, "phase", 1) == int(digest[:16], 16) // 2


def test_streams_differ_by_seed_name_order_and_type():
    streams = [
        derive(1, "a", "b"), derive(2, "a", "b"), derive(1, "b", "a"), derive(1, "ab"),
        derive(1, "a"), derive(1, 1), derive(1, "1"), derive(11, "a"),
    ]  # fmt: skip
    assert len(set(streams)) == len(streams)
    assert all(0 <= one < 2**63 for one in streams)


@pytest.mark.parametrize(("seed", "names"), [(-1, ("a",)), (1, ())])
def test_nameless_stream_or_negative_seed_is_refused(seed, names):
    with pytest.raises(ValueError, match="derive"):
        derive(seed, *names)
