"""The measurement of reloads runs, and reports what it says it does."""

from bench.engine.reload import MIB, measure_reload


def test_reports_medians_of_reload_and_of_the_faster_copy_with_their_counts(tmp_path):
    found = measure_reload(total_bytes=4 * MIB, page_bytes=MIB, rounds=3, directory=tmp_path)
    assert found["reload_gbps"] > 0 and found["count"]["reload"] == 3
    assert found["memcpy_gbps"] == max(found["numpy_gbps"], found["libc_gbps"])
    assert abs(found["reload_per_memcpy"] - found["reload_gbps"] / found["memcpy_gbps"]) < 0.02
    assert not list(tmp_path.iterdir()), "the segment is gone"
