"""The worker beside the loop: what it does once a job has failed."""

from troth.errors import SyncFailed
from troth.runtime.disk_machine import ThreadWorker


def test_no_job_is_done_after_one_that_failed() -> None:
    """The next sync may succeed although the failed one has lost pages (fsyncgate)."""
    failures: list[BaseException] = []
    done: list[str] = []

    def fail() -> None:
        raise SyncFailed("the disk")

    worker = ThreadWorker("test", failures.append)
    worker.do(lambda: done.append("before"))
    worker.do(fail)
    worker.do(lambda: done.append("behind"))
    assert worker.stop()
    assert done == ["before"]
    assert [type(error) for error in failures] == [SyncFailed]
