"""Which trackers a job may name here: those that are installed, with secrets that the installation gives out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from feinschliff.formats.recipe import Recipe, Tracker
from feinschliff.kit.addresses import is_inside
from feinschliff.kit.errors import FieldViolation, Invalid, WrongState
from feinschliff.workloads.profiles import Profile

ALWAYS = ("mlflow", "tensorboard")  # need nothing that a trainer does not have
WANDB_SECRET = "wandb"  # taken where the recipe names none
PATH = "training_job.recipe.trackers"


@dataclass(frozen=True)
class TrackerRules:
    """What this installation has for trackers.

    Args:
        secrets_folder: of the trainers on this machine; None on a cluster, where a profile names its secrets.
        has_wandb: whether trainers on this machine have the package; on a cluster a profile says what its image has.
        offline: whether numbers may leave the installation.
    """

    secrets_folder: Path | None = None
    has_wandb: bool = False
    offline: bool = False

    def installed(self, profiles: Sequence[Profile]) -> list[str]:
        wandb = self.has_wandb or any("wandb" in profile.trackers for profile in profiles)
        return sorted({*ALWAYS, *(["wandb"] if wandb else [])})

    def check(self, recipe: Recipe, profile: Profile) -> None:
        """
        Raises:
            WrongState: TRACKER_UNAVAILABLE, TRACKER_OUTSIDE.
            Invalid: TRACKER_ADDRESS_INVALID, TRACKER_SECRET_UNKNOWN.
        """
        for place, tracker in enumerate(recipe.trackers):
            self._check_one(tracker, profile, f"{PATH}[{place}]")

    def _check_one(self, tracker: Tracker, profile: Profile, path: str) -> None:
        if tracker.mlflow is not None:
            self._check_address(tracker.mlflow.tracking_uri, f"{path}.mlflow.tracking_uri")
            self._check_secret(tracker.mlflow.credentials_secret, profile, f"{path}.mlflow.credentials_secret")
        if tracker.wandb is not None:
            has_it = self.has_wandb if self.secrets_folder is not None else "wandb" in profile.trackers
            if not has_it:
                message = "Weights & Biases is not installed here; install the extra `wandb`, or name MLflow."
                raise _unavailable(message, f"{path}.wandb")
            self._check_secret(tracker.wandb.credentials_secret, profile, f"{path}.wandb.credentials_secret")

    def _check_address(self, uri: str, path: str) -> None:
        wrong = _wrong_address(uri)
        if wrong:
            fields = [FieldViolation(path, wrong, "TRACKER_ADDRESS_INVALID")]
            raise Invalid("TRACKER_ADDRESS_INVALID", wrong, fields=fields)
        if self.offline and not is_inside(uri):
            message = f"{uri!r} is outside, and nothing may leave this installation; name a server of your own network."
            fields = [FieldViolation(path, message, "TRACKER_OUTSIDE")]
            raise WrongState("TRACKER_OUTSIDE", message, fields=fields, tracking_uri=uri)

    def _check_secret(self, name: str, profile: Profile, path: str) -> None:
        if not name or self._knows(name, profile):
            return
        place = f"the folder {self.secrets_folder}" if self.secrets_folder else f"the profile {profile.name}"
        message = f"There is no secret {name!r} in {place} that jobs may name."
        fields = [FieldViolation(path, message, "TRACKER_SECRET_UNKNOWN")]
        raise Invalid("TRACKER_SECRET_UNKNOWN", message, fields=fields, secret=name)

    def _knows(self, name: str, profile: Profile) -> bool:
        if self.secrets_folder is not None:
            return (self.secrets_folder / name).is_dir()
        return name in profile.secrets


def _wrong_address(uri: str) -> str:
    """Why it is no address of a tracking server; empty where it is one. A password in it is not repeated."""
    try:
        parts = urlsplit(uri)
        if "@" in parts.netloc:
            return "The address holds a name or a password; name a secret that has them."
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return ""
    except ValueError:
        pass  # brackets without an address in them, or a port that is no number of a port
    return f"{uri!r} is no http or https address of a tracking server."


def secrets_of(recipe: Recipe, profile: Profile) -> tuple[str, ...]:
    """The secrets of the profile that the recipe's trackers need; nothing else is given to the job."""
    return tuple(dict.fromkeys(name for name in _named(recipe) if name in profile.secrets))


def _named(recipe: Recipe) -> Iterator[str]:
    for tracker in recipe.trackers:
        if tracker.mlflow is not None:
            yield tracker.mlflow.credentials_secret
        if tracker.wandb is not None:
            yield tracker.wandb.credentials_secret or WANDB_SECRET


def _unavailable(message: str, path: str) -> WrongState:
    return WrongState("TRACKER_UNAVAILABLE", message, fields=[FieldViolation(path, message, "TRACKER_UNAVAILABLE")])
