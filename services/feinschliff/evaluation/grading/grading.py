"""Grades one answer by all graders of an eval: by those that decide alone, and by those that ask."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from feinschliff.evaluation.grading.given import give_grade, given
from feinschliff.evaluation.grading.outside import RoomOutside, Waiting
from feinschliff.evaluation.grading.posting import is_public
from feinschliff.evaluation.resources import GradeGiven
from feinschliff.graders.endpoint import Endpoint
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.multi import AskingMulti, PureMulti
from feinschliff.graders.protocol import Asking, Grader, is_asking, is_pure
from feinschliff.graders.python import Python
from feinschliff.graders.spec import refused
from feinschliff.graders.text_similarity import Cosine
from feinschliff.graders.together import together
from feinschliff.kit.metrics import Metrics


class Grading:
    """What graders ask goes out over one `RoomOutside`."""

    def __init__(self, outside: RoomOutside, metrics: Metrics) -> None:
        self._outside = outside
        self._seconds = metrics.histogram("feinschliff_evaluation_grader_seconds")

    async def asked(
        self,
        project: str,
        graders: Sequence[Grader],
        item: Item,
        sample: Sample,
        *,
        model: str = "",
        waiting: Waiting | None = None,
    ) -> Mapping[str, GradeGiven]:
        """The grades of those that ask, on behalf of a project, all at the same time, by name; empty where none does.

        Raises:
            Halt: as `waiting` says.
        """
        asking = [grader for grader in graders if is_asking(grader)]
        if not asking:
            return {}
        outside = replace(self._outside, project=project, model=model, waiting=waiting)
        grades = await together(self._ask(grader, item, sample, outside) for grader in asking)
        return {grade.grader: grade for grade in grades}

    async def _ask(self, grader: Asking, item: Item, sample: Sample, outside: RoomOutside) -> GradeGiven:
        with self._seconds.labels(grader.type).time():
            return given(grader, await grader.ask(item, sample, outside))

    def all(
        self, graders: Sequence[Grader], item: Item, sample: Sample, asked: Mapping[str, GradeGiven]
    ) -> list[GradeGiven]:
        """All grades in the graders' order; blocking, since some texts take their time."""
        return [self._one(grader, item, sample) if is_pure(grader) else asked[grader.name] for grader in graders]

    def _one(self, grader: Grader, item: Item, sample: Sample) -> GradeGiven:
        assert is_pure(grader)
        with self._seconds.labels(grader.type).time():
            return give_grade(grader, item, sample)

    def check(self, grader: Grader, path: str) -> None:
        """Refuses what this installation could not do for any answer.

        Raises:
            Invalid: GRADER_MODEL_MISSING, GRADER_HEADERS_UNKNOWN, GRADER_URL_INVALID, GRADER_ADDRESS_REFUSED or
                SANDBOX_ENVIRONMENT_UNKNOWN.
        """
        for one, where in _with_inner(grader, path):
            if isinstance(one, Cosine):
                self._check_cosine(one, where)
            elif isinstance(one, Endpoint):
                self._check_endpoint(one, where)
            elif isinstance(one, Python):
                self._check_python(one, where)

    def _check_cosine(self, grader: Cosine, path: str) -> None:
        if not grader.model and not self._outside.installation.embedding_model:
            message = "This installation has no embedding model of its own; name one in 'model'."
            raise refused("GRADER_MODEL_MISSING", f"{path}.text_similarity.model", message)

    def _check_python(self, grader: Python, path: str) -> None:
        names = self._outside.sandboxed.environments
        if grader.image_tag and grader.image_tag not in names:
            message = f"{grader.image_tag!r} is no environment of this installation; it has {', '.join(names)}."
            field = f"{path}.python.image_tag"
            raise refused("SANDBOX_ENVIRONMENT_UNKNOWN", field, message, environment=grader.image_tag)

    def _check_endpoint(self, grader: Endpoint, path: str) -> None:
        installation, parts = self._outside.installation, urlsplit(grader.url)
        if installation.headers_for(grader.headers_secret, grader.url) is None:
            message = f"This installation has no headers named {grader.headers_secret!r} for this URL."
            raise refused("GRADER_HEADERS_UNKNOWN", f"{path}.endpoint.headers_secret", message)
        if parts.scheme != "https" and not installation.reach.private:
            message = "'url' must be https; plain http is for private addresses where the installation allows them."
            raise refused("GRADER_URL_INVALID", f"{path}.endpoint.url", message)
        try:
            address = ipaddress.ip_address(parts.hostname or "")
        except ValueError:
            return  # a name: its addresses are checked whenever it is asked
        if parts.scheme != "https" and is_public(address):
            message = f"{address} is outside; 'url' must be https, plain http is for private addresses."
            raise refused("GRADER_URL_INVALID", f"{path}.endpoint.url", message)
        if not installation.reach.allows(address):
            where = "outside" if is_public(address) else "in a private network"
            message = f"{address} is {where}, which this installation does not allow."
            raise refused("GRADER_ADDRESS_REFUSED", f"{path}.endpoint.url", message, address=str(address))


def _with_inner(grader: Grader, path: str) -> Iterator[tuple[Grader, str]]:
    yield grader, path
    if isinstance(grader, PureMulti | AskingMulti):
        for name, inner in grader.graders.items():
            yield from _with_inner(inner, f"{path}.multi.graders[{name}]")
