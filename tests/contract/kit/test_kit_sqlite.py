"""What SQLite alone asks of those who open its files."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from feinschliff.kit.db.engine import engine_for


def test_a_new_file_is_opened_by_many_at_once(tmp_path: Path) -> None:
    """Each the first to open it, which SQLite refuses some of them: 40 times in 1,200 where nobody tries again."""
    together = threading.Barrier(4)

    def open_all(_: int) -> None:
        for number in range(100):
            engine = engine_for(f"sqlite:///{tmp_path}/{number}.db", busy_timeout_seconds=10)
            together.wait(timeout=20)
            with engine.connect() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_all, range(4)))
