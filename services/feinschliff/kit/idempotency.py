"""Creates that may be sent twice: the same request id gives the same resource, another body is refused."""

import hashlib
from collections.abc import Callable, Collection

from google.protobuf.message import Message

from feinschliff.kit.clock import Clock, SystemClock
from feinschliff.kit.db import MetaData, Session, insert_ignore, request_table, select_one
from feinschliff.kit.errors import Invalid

REQUEST_ID_CAP_CHARS = 64


def digest_of(request: Message, *, without: Collection[str] = ("request_id",)) -> str:
    """SHA-256 of a request without the fields that do not decide what is made."""
    body = type(request)()
    body.CopyFrom(request)
    for name in without:
        body.ClearField(name)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()


class Ledger:
    """Which request made which resource; one table per room, `<room>_requests`."""

    def __init__(self, metadata: MetaData, room: str, *, clock: Clock | None = None) -> None:
        self.table = request_table(metadata, room)
        self._clock = clock or SystemClock()

    def once(self, session: Session, method: str, request_id: str, body_digest: str, make: Callable[[], str]) -> str:
        """The id of the resource that this request made before, or else what `make` makes now.

        All in the caller's transaction: either the resource and the note of it are both there, or neither. Two equal
        requests at the same moment: the second waits for the first and gets its resource. Without a request id there
        is no memory and `make` runs.

        Args:
            method: the scope of the id, such as `CreateDataset projects/default`.
            body_digest: from `digest_of`.
            make: creates the resource and gives its id or name.

        Raises:
            Invalid: REQUEST_ID_REUSED for the same id with another body.
        """
        if not request_id:
            return make()
        if len(request_id) > REQUEST_ID_CAP_CHARS:
            raise Invalid("REQUEST_ID_INVALID", f"A request id has at most {REQUEST_ID_CAP_CHARS} characters.")
        key = {"method": method, "request_id": request_id}
        row = key | {"body_digest": body_digest, "resource": "", "created": self._clock.now()}
        if insert_ignore(session, self.table, [row]):
            resource = make()
            matching = (self.table.c.method == method) & (self.table.c.request_id == request_id)
            session.execute(self.table.update().where(matching).values(resource=resource))
            return resource
        known = select_one(session, self.table, **key)
        if known is None or known["body_digest"] != body_digest:
            raise Invalid(
                "REQUEST_ID_REUSED",
                f"Request id {request_id!r} was used with another body; take a new id for a new request.",
                request_id=request_id,
            )
        return str(known["resource"])
