"""What a test lets another process do: `python -m tests.contract.kit.small_room upgrade|write <url>`."""

import sys

from feinschliff.kit.db import Database, insert_ignore
from tests.contract.kit.small_room.store import ITEMS, MIGRATIONS, ROOM


def main(act: str, url: str) -> None:
    database = Database(url, ROOM, migrations=MIGRATIONS)
    database.upgrade()
    number = 0
    while act == "write":
        with database.transaction() as session:
            insert_ignore(session, ITEMS, [{"name": f"row-{number}", "count": number, "version": 1}])
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
