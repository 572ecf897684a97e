"""What a job would do, said before it runs: steps, tokens, memory, time, price, and what will go wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from feinschliff.artifacts.outlines import Outline
from feinschliff.formats.adaptations import LastLayers
from feinschliff.formats.objectives import Sft
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.runfile import DataPart
from feinschliff.kit.errors import FieldViolation, Invalid, Refusal, WrongState
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder, survey
from feinschliff.lm.plain_tokenizer import PlainTokenizer
from feinschliff.training import findings, memory
from feinschliff.training.architecture import Architecture, architecture_of, low_rank_of, trained_parameters
from feinschliff.training.findings import Finding, Severity
from feinschliff.training.machine import likely_precision, memory_of
from feinschliff.training.memory import Load, Part, Site
from feinschliff.training.proto import RECIPE_PATH
from feinschliff.training.rows import (
    ROWS_MAX,
    Largest,
    Looked,
    RowSource,
    Work,
    by_task,
    fair_part,
    largest,
    look,
    work_of,
)
from feinschliff.training.speeds import Ran, Speed, overhead_of, speed_of
from feinschliff.training.store import Job
from feinschliff.workloads.profiles import Profile, Profiles

logger = logging.getLogger(__name__)

SECONDS_PER_HOUR = 3600.0
ROWS_MIN = 50
_SMALLEST = Load(tokens=16, row_tokens=16, labels=1, tokens_low=16, tokens_high=16)


class EarlierJobs(Protocol):
    def ran(self, profile: str) -> list[Ran]: ...


@dataclass(frozen=True)
class Memory:
    """Of one process; `limit` is 0 where it is not known."""

    parts: tuple[Part, ...]
    limit: int

    @property
    def low(self) -> int:
        return sum(part.low for part in self.parts)

    @property
    def expected(self) -> int:
        return sum(part.expected for part in self.parts)

    @property
    def high(self) -> int:
        return sum(part.high for part in self.parts)

    @property
    def fits(self) -> bool:
        return not self.limit or self.low <= self.limit


@dataclass(frozen=True)
class Duration:
    """Seconds of the job, by the speed of earlier ones, and its price where the profile has one."""

    seconds: float
    low: float
    high: float
    speed: Speed
    price: float | None


@dataclass(frozen=True)
class JobPlan:
    """What `TrainingPlan` of the contract says; what is not known is None or empty."""

    recipe: Recipe
    work: Work
    sources: Sequence[Looked]
    validation_rows: int
    largest: Largest
    trained: int
    architecture: Architecture | None
    memory: Memory
    duration: Duration | None
    currency: str
    findings: Sequence[Finding] = field(default_factory=tuple)

    @property
    def row_tokens_max(self) -> int:
        """Of the longest row seen, before anything was cut."""
        whole = [line.tokens for source in self.sources for line in source.long]
        return max([self.largest.row_tokens + 1 if self.largest.row_tokens else 0, *whole])

    def count(self, lines: Callable[[Looked], Sequence[object]]) -> int:
        """How many rows of all, by those among the rows seen."""
        return sum(source.of_all(len(lines(source))) for source in self.sources)


class Planner:
    """Nothing here starts or stores anything.

    Args:
        outline: what is known of a base without its weights; None where only the machine that trains can see it.
        local: whether attempts run on this machine.
    """

    def __init__(
        self,
        rows: RowSource,
        outline: Callable[[str], Outline | None],
        earlier: EarlierJobs,
        profiles: Profiles,
        *,
        local: bool,
    ) -> None:
        self._rows = rows
        self._outline = outline
        self._earlier = earlier
        self._profiles = profiles
        self._local = local

    def plan(self, job: Job) -> JobPlan:
        """The plan of a job that was drafted, not made.

        Raises:
            Refusal: the rows or the base cannot be read at all.
        """
        recipe, profile, base_model = job.recipe, self._profiles.get(job.profile), str(job.inputs["base_model"])
        outline = self._outline(base_model)
        found: list[Finding] = []
        train: list[Looked] = []
        validation: list[Looked] = []
        classes, architecture = 0, None
        if outline is None:
            found.append(findings.base_not_visible(base_model))
        else:
            architecture = architecture_of(outline)
            found += findings.of_recipe(recipe, architecture)
            try:
                train, validation, classes = self._read(job, outline)
                found += findings.of_context(train, architecture)
            except Invalid as refusal:
                found.append(findings.of_refusal(refusal))
        work = work_of(train, recipe.optimisation)
        biggest = largest(train, recipe.optimisation, work.steps, shared=shares_prefixes(recipe))
        trained = _learning(architecture, recipe, classes=classes) if architecture else 0
        needs = self._memory(architecture, recipe, profile, load_of(biggest, [*train, *validation]), trained)
        found += findings.of_rows([*train, *validation], recipe)
        found += findings.of_steps(work, recipe, has_validation=bool(job.inputs["validation"]))
        found += findings.of_memory(needs, lambda other: self._needs(architecture, other, profile, train), recipe)
        return JobPlan(
            recipe=recipe,
            work=work,
            sources=train,
            validation_rows=_validation_rows(validation, recipe),
            largest=biggest,
            trained=trained,
            architecture=architecture,
            memory=needs,
            duration=self._duration(recipe, base_model, architecture, profile, work),
            currency=self._profiles.currency,
            findings=findings.gravest_first(found),
        )

    def look_into(self, base_model: str) -> Architecture | None:
        """How a base is built, where that is known at once: the hub is not asked, and no base is refused here."""
        if base_model.startswith("hf:"):
            return None
        try:
            outline = self._outline(base_model)
            return architecture_of(outline) if outline else None
        except Refusal as refusal:  # the trainer will say it, or the plan
            logger.info("a base tells nothing of itself", extra={"base": base_model, "why": refusal.message})
            return None

    def refuse_what_cannot_fit(self, job: Job) -> None:
        """Refuses a job that not even the shortest rows would fit, without reading a row or asking the hub.

        Raises:
            WrongState: MEMORY_INSUFFICIENT.
        """
        profile = self._profiles.get(job.profile)
        if not memory_of(profile, local=self._local):
            return
        architecture = self.look_into(str(job.inputs["base_model"]))
        if architecture is None:
            return
        trained = _learning(architecture, job.recipe)
        needs = self._memory(architecture, job.recipe, profile, _SMALLEST, trained)
        if not needs.fits:
            advice = findings.what_fits(
                lambda other: self._memory(architecture, other, profile, _SMALLEST, _learning(architecture, other)),
                job.recipe,
            )
            raise insufficient(needs, profile.name, advice)

    def refuse_what_will_fail(self, job: Job) -> None:
        """Refuses what the plan finds to be wrong; for who only wants to know whether a job would be taken.

        Raises:
            Invalid: the reason of the gravest finding. WrongState: MEMORY_INSUFFICIENT.
        """
        plan = self.plan(job)
        if not plan.memory.fits:
            advice = [one.advice for one in plan.findings if one.code == "MEMORY_INSUFFICIENT" and one.advice]
            raise insufficient(plan.memory, job.profile, advice)
        wrong = [one for one in plan.findings if one.severity is Severity.ERROR]
        if wrong:
            raise Invalid(
                wrong[0].code,
                wrong[0].message,
                advice=[one.advice for one in wrong if one.advice],
                fields=[FieldViolation(one.field or f"{RECIPE_PATH}.data", one.message, one.code) for one in wrong],
                findings=len(wrong),
            )

    def _read(self, job: Job, outline: Outline) -> tuple[list[Looked], list[Looked], int]:
        """What is seen of the rows to learn from, and of those to validate with; and the classes among them."""
        objective = job.recipe.objective
        chat = Chat.of(PlainTokenizer.of(outline.files), template_needed=isinstance(objective, Sft))
        parts = [DataPart.model_validate(part) for part in job.inputs["train"]]
        drawn = [self._rows.draw(part.dataset_version, part.splits, rows_max) for part, rows_max in _shares(job, parts)]
        records = [fair_part(one.records) for one in drawn]
        facts = survey((record for one in records for record in one), objective)
        encoder, optimisation = RowEncoder(chat, objective, facts), job.recipe.optimisation
        train = [
            look(
                encoder,
                some,
                optimisation,
                dataset_version=part.dataset_version,
                rows=one.rows,
                weight=part.weight,
                task=_lane(job, part),
            )
            for part, one, some in zip(parts, drawn, records, strict=True)
        ]
        validation = []
        for raw in job.inputs["validation"]:
            part = DataPart.model_validate(raw)
            seen = self._rows.draw(part.dataset_version, part.splits, ROWS_MAX // 4)
            some = fair_part(seen.records)
            name, task = part.dataset_version, _lane(job, part)
            validation.append(look(encoder, some, optimisation, dataset_version=name, rows=seen.rows, task=task))
        return train, validation, len(facts.classes) if facts else 0

    def _needs(
        self, architecture: Architecture | None, recipe: Recipe, profile: Profile, train: Sequence[Looked]
    ) -> Memory:
        """The same rows under another recipe."""
        assert architecture is not None
        steps = work_of(train, recipe.optimisation).steps
        biggest = largest(train, recipe.optimisation, steps, shared=shares_prefixes(recipe))
        trained = _learning(architecture, recipe)
        return self._memory(architecture, recipe, profile, load_of(biggest, train), trained)

    def _memory(
        self, architecture: Architecture | None, recipe: Recipe, profile: Profile, load: Load, trained: int
    ) -> Memory:
        limit = memory_of(profile, local=self._local) // recipe.processes_per_node if not profile.gpus else 0
        if architecture is None:
            return Memory((), limit)
        return Memory(tuple(parts_of(architecture, recipe, profile, load, trained, local=self._local)), limit)

    def _duration(
        self, recipe: Recipe, base_model: str, architecture: Architecture | None, profile: Profile, work: Work
    ) -> Duration | None:
        if architecture is None or not work.steps:
            return None
        earlier = self._earlier.ran(profile.name)
        speed = speed_of(recipe, base_model, architecture, earlier)
        if speed is None:
            return None
        overhead = overhead_of(earlier)
        seconds, low, high = (overhead + work.tokens / one for one in (speed.expected, speed.high, speed.low))
        price = seconds / SECONDS_PER_HOUR * profile.price_per_hour * recipe.nodes if profile.price_per_hour else None
        return Duration(seconds, low, high, speed, price)


def parts_of(
    architecture: Architecture, recipe: Recipe, profile: Profile, load: Load, trained: int, *, local: bool
) -> list[Part]:
    """Parts of one process; where nobody knows the machine's precision, the range covers both."""
    precision, sure = likely_precision(recipe.precision, local=local, gpus=profile.gpus)
    device: Literal["cpu", "cuda"] = "cuda" if profile.gpus else "cpu"
    expected = memory.parts(architecture, recipe, load, Site(precision, device), trained=trained)
    if sure:
        return expected
    other = memory.parts(
        architecture, recipe, load, Site("bf16" if precision == "fp32" else "fp32", device), trained=trained
    )
    return [
        Part(one.component, min(one.low, two.low), one.expected, max(one.high, two.high))
        for one, two in zip(expected, other, strict=True)
    ]


def shares_prefixes(recipe: Recipe) -> bool:
    """Whether the trainer computes once what rows begin with: not where each row draws numbers of its own, nor where
    states of frozen layers are kept by row."""
    low_rank = low_rank_of(recipe)
    random = recipe.optimisation.neftune_alpha or (low_rank is not None and low_rank.dropout)
    return not random and not isinstance(recipe.adaptation, LastLayers)


def load_of(biggest: Largest, sources: Sequence[Looked]) -> Load:
    """The largest forward pass, and all rows in memory; the smallest there can be where no row was read."""
    rows = sum(source.rows_kept for source in sources)
    tokens = sum(round(source.rows_kept * sum(source.lengths) / max(1, len(source.lengths))) for source in sources)
    if not biggest.tokens:
        return _SMALLEST
    return Load(
        tokens=biggest.tokens,
        row_tokens=biggest.row_tokens,
        labels=biggest.labels,
        tokens_low=biggest.tokens_low,
        tokens_high=biggest.tokens_high,
        pass_rows=biggest.rows,
        passes=biggest.passes,
        rows=rows,
        rows_tokens=tokens,
    )


def insufficient(needs: Memory, profile: str, advice: Sequence[str]) -> WrongState:
    message = (
        f"The job needs at least {findings.gibibytes(needs.low)} of memory for each process, and the profile "
        f"{profile!r} has {findings.gibibytes(needs.limit)}."
    )
    return WrongState(
        "MEMORY_INSUFFICIENT",
        message,
        advice=advice,
        fields=[FieldViolation(f"{RECIPE_PATH}.execution_profile", message, "MEMORY_INSUFFICIENT")],
        bytes_low=needs.low,
        bytes_limit=needs.limit,
        execution_profile=profile,
    )


def _learning(architecture: Architecture, recipe: Recipe, *, classes: int = 0) -> int:
    """Weights that learn, of all tasks together where each has an adapter of its own."""
    return recipe.adapters * trained_parameters(architecture, recipe, classes=classes)


def _lane(job: Job, part: DataPart) -> str:
    """What tells the rows apart that do not learn together."""
    return part.task_name if job.recipe.has_separate_adapters else ""


def _validation_rows(sources: Sequence[Looked], recipe: Recipe) -> int:
    rows = [sum(source.rows_kept for source in some) for some in by_task(sources)]
    return sum(min(one, recipe.validation.rows_max or one) for one in rows)


def _shares(job: Job, parts: Sequence[DataPart]) -> list[tuple[DataPart, int]]:
    """How many rows of each source are looked at: more of a large one, some of each."""
    datasets: Sequence[Mapping[str, Any]] = job.inputs["datasets"]
    rows = [int(one["rows"]) for one in datasets]
    in_all = max(1, sum(rows))
    return [(part, max(ROWS_MIN, ROWS_MAX * count // in_all)) for part, count in zip(parts, rows, strict=True)]
