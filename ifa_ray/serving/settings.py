"""What one Serve application is: settings from a config file, checked before anything is loaded.

Knows pydantic, because Serve turns a config file's `args` into such a model; no Ray, no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ifa_ray.errors import ConfigError

__all__ = ["AppSettings", "LiveSettings", "PinSettings", "ShadowSettings", "SlotSettings"]


class ShadowSettings(BaseModel):
    """A version that ranks a slot's traffic along, for the log alone.

    Attributes:
        log: folder of its lines, a file for each replica; made where there is none.
        checkpoints: folder of `version=00003` folders; None takes the slot's.
        version: which; None takes the newest that is there when the replica starts.
        share: of the time, at most, that a replica ranks with it.
        queue: answers that may wait for it, each with the body in which it came; more are dropped.
        log_bytes: of one file; three older ones are kept beside it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    log: str
    checkpoints: str | None = None
    version: int | None = Field(default=None, ge=0)
    share: float = Field(default=0.1, gt=0, le=1)
    queue: int = Field(default=8, ge=1)
    log_bytes: int = Field(default=2**26, ge=2**16)


class SlotSettings(BaseModel):
    """One catalogue and the versions of one model over it: a replicate of an arm.

    Attributes:
        items: path of the catalogue's Parquet file.
        checkpoints: folder of `version=00003` folders, or the URL of a store that has them
            (`ifa_ray.training.storage`); None with a ranker of one's own.
        version: serve this version and no other; None follows what is pushed or asked for.
        follow_s: how often a replica looks for a newer version by itself; None does not.
        seed: given to a ranker of one's own.
        shadow: a second version of the same catalogue; its scores are logged and never sent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: str
    checkpoints: str | None = None
    version: int | None = Field(default=None, ge=0)
    follow_s: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    shadow: ShadowSettings | None = None

    @model_validator(mode="after")
    def _versions_to_follow(self) -> Self:
        if self.follow_s is not None and (self.checkpoints is None or self.version is not None):
            raise ConfigError(
                f"follow_s == {self.follow_s}, must be None with checkpoints == "
                f"{self.checkpoints!r} and version == {self.version}: no other version can come."
            )
        return self

    @model_validator(mode="after")
    def _versions_of_a_shadow(self) -> Self:
        if self.shadow and self.shadow.checkpoints is None and self.checkpoints is None:
            raise ConfigError("shadow.checkpoints == None, must be a folder: the slot has none.")
        return self


class PinSettings(BaseModel):
    """One version that answers a slot's requests, whichever newer ones come.

    Attributes:
        slot: which.
        version: of its checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slot: int = Field(ge=0)
    version: int = Field(ge=0, le=2**31 - 1)


class LiveSettings(BaseModel):
    """What may change while replicas serve: a deployment's `user_config`.

    Attributes:
        pins: slots that answer with one version; a slot that is not listed is unpinned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pins: list[PinSettings] = []

    @model_validator(mode="after")
    def _one_pin_a_slot(self) -> Self:
        slots = [pin.slot for pin in self.pins]
        if len(set(slots)) != len(slots):
            raise ConfigError(f"pins name the slots {slots}, must name each once.")
        return self


class AppSettings(BaseModel):
    """One application of `ifa_ray.serving.app`.

    Attributes:
        name: the application's name, an arm in a comparison.
        slots: slot i serves the model of replicate i.
        ranker: `package.module:Class` of a ranker of one's own, made as Class(items=..., seed=...);
            None ranks with the checkpoints. From the command line or a config only, never from
            a request: whoever sets it runs code.
        precision: of scoring; `bf16` gives the same slates, sooner only where the processor
            multiplies bfloat16 much faster than float32 (see `ifa_ray.ranker.ModelRanker`).
        graphs: requests are padded to sizes that a card records once and replays; with `num_gpus`,
            and models that can be recorded alone (`ifa`).
        num_threads: of one replica's scoring. Scores may differ in the last bit between counts.
        num_replicas, num_cpus: processes, and the cores that each of them reserves.
        num_gpus: of each replica, which then scores on it; a fraction shares a card between
            replicas. 0 scores on the processor, a card in the machine or not.
        max_ongoing_requests: at one replica at a time, waiting for its scoring thread included.
        max_queued_requests: waiting at one caller for a replica; beyond it calls are refused
            (HTTP 503). -1 lets them wait.
        degrade_beyond_calls, degraded_candidates: while more calls than the first are at a replica,
            ranked or waiting, only the first so many candidates of a request are ranked, at least
            k; the answer says that it is `degraded`. None, both, ranks all candidates always.
        max_body_bytes: of an HTTP body or a gRPC call. The default holds a request at the
            contract's limits (50,000 candidates, 1,000,000 impressions) in the binary form.
        max_requests: rank requests in one HTTP body or gRPC call.
        sequence_store: folder on a local disk, made where there is none, in which histories live;
            None keeps none. One replica owns it, unless it has shards.
        store_shards: processes among which users' histories are spread, for any number of replicas
            (`ifa_ray.serving.shard_actors`); None has the one replica hold them. It is fixed once
            histories are stored.
        store_resource: shard i lies on the node that has Ray's resource `NAME-i`; None where Ray
            has one node.
        store_class: `package.module:Class` of a store of one's own, made as Class(location=...,
            max_bytes=...) of `sequence_store` and `store_bytes` in every replica; None takes ours.
            From the command line or a config only, as `ranker` is.
        store_bytes: of the store's file, or an equal part of it of each shard's; beyond it events
            are refused (HTTP 507).
        state_bytes: of sequence states in memory, the slots' shares being equal; 0 keeps none, and
            a request reads its whole history.
        grpc: whether calls that come by Serve's gRPC port are answered (docs/serving.md). That port
            listens on every address of the machine, so `token_env` must be set.
        token_env: an environment variable of the replica that holds the token which calls by HTTP
            and gRPC must bring; None asks for none. The token itself is in no setting, so nothing
            shows it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    slots: list[SlotSettings] = Field(min_length=1)
    ranker: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    graphs: bool = False
    num_threads: int = Field(default=1, ge=1)
    num_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0, le=1)
    max_ongoing_requests: int = Field(default=16, ge=1)
    max_queued_requests: int = Field(default=-1, ge=-1)
    degrade_beyond_calls: int | None = Field(default=None, ge=1)
    degraded_candidates: int | None = Field(default=None, ge=1)
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    max_requests: int = Field(default=64, ge=1)
    sequence_store: str | None = None
    store_shards: int | None = Field(default=None, ge=1, le=256)
    store_resource: str | None = None
    store_class: str | None = None
    store_bytes: int = Field(default=64 * 2**30, ge=2**16)
    state_bytes: int = Field(default=0, ge=0)
    grpc: bool = False
    token_env: str | None = None

    @model_validator(mode="after")
    def _both_sides_of_degradation(self) -> Self:
        if (self.degrade_beyond_calls is None) != (self.degraded_candidates is None):
            raise ConfigError(
                f"degraded_candidates == {self.degraded_candidates}, must be set with "
                f"degrade_beyond_calls == {self.degrade_beyond_calls}, and None without."
            )
        return self

    @model_validator(mode="after")
    def _no_open_port(self) -> Self:
        if self.grpc and self.token_env is None:
            raise ConfigError(
                "token_env == None, must name a variable with grpc == True: Serve's gRPC port "
                "listens on every address of the machine."
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_rankers(self) -> Self:
        for place, slot in enumerate(self.slots):
            field = f"slots[{place}].checkpoints"
            if self.ranker is None and slot.checkpoints is None:
                raise ConfigError(f"{field} == None, must be a folder unless `ranker` is set.")
            if self.ranker is not None and (slot.checkpoints or slot.version is not None):
                raise ConfigError(
                    f"{field} == {slot.checkpoints!r} and version == {slot.version}, must be unset "
                    f"with ranker == {self.ranker!r}, which has no versions."
                )
        return self

    @model_validator(mode="after")
    def _one_owner_of_histories(self) -> Self:
        if self.store_class is not None and self.sequence_store is None:
            raise ConfigError(
                f"sequence_store == None, must say where with store_class == {self.store_class!r}."
            )
        if self.store_class is not None and self.state_bytes and self.num_replicas != 1:
            raise ConfigError(
                f"state_bytes == {self.state_bytes}, must be 0 with num_replicas == "
                f"{self.num_replicas}: an erasure would reach the states of one replica alone."
            )
        ours = self.sequence_store is not None and self.store_class is None
        if ours and self.num_replicas != 1 and self.store_shards is None:
            raise ConfigError(
                f"num_replicas == {self.num_replicas}, must be 1 with sequence_store == "
                f"{self.sequence_store!r} and store_shards == None: one process owns a store. "
                "With store_shards == 1 or more it is one that all replicas ask."
            )
        if self.store_shards is not None and not ours:
            raise ConfigError(
                f"store_shards == {self.store_shards}, must be None without sequence_store and "
                "with store_class."
            )
        if self.state_bytes and self.sequence_store is None:
            raise ConfigError(
                f"state_bytes == {self.state_bytes}, must be 0 without sequence_store: states are "
                "kept of histories in a store."
            )
        if self.state_bytes and self.ranker is not None:
            raise ConfigError(
                f"state_bytes == {self.state_bytes}, must be 0 with ranker == {self.ranker!r}, "
                "which keeps no states that are known here."
            )
        return self

    @model_validator(mode="after")
    def _a_place_for_shards(self) -> Self:
        if self.store_resource is None:
            return self
        if self.store_shards is None:
            raise ConfigError(
                f"store_resource == {self.store_resource!r}, must be None without store_shards."
            )
        assert self.sequence_store is not None  # _one_owner_of_histories saw to it
        if not Path(self.sequence_store).is_absolute():
            raise ConfigError(
                f"sequence_store == {self.sequence_store!r}, must be absolute with store_resource "
                f"== {self.store_resource!r}: nodes' folders differ."
            )
        return self

    @model_validator(mode="after")
    def _a_card_for_models(self) -> Self:
        if self.num_gpus and self.ranker is not None:
            raise ConfigError(
                f"num_gpus == {self.num_gpus}, must be 0 with ranker == {self.ranker!r}: what a "
                "ranker of one's own does with a card is not known here."
            )
        return self

    @model_validator(mode="after")
    def _graphs_of_a_card(self) -> Self:
        if self.graphs and (not self.num_gpus or self.state_bytes):
            raise ConfigError(
                f"graphs == True, must be False with num_gpus == {self.num_gpus} and state_bytes "
                f"== {self.state_bytes}: a card records them, and no sums that are kept in memory."
            )
        return self

    def check_paths(self) -> None:
        """Checks that every file and folder is there; what a URL names is seen when it is opened.

        Raises:
            ConfigError: naming the setting, its value and the folder it is relative to.
        """
        for place, slot in enumerate(self.slots):
            shadow = None if slot.shadow is None else slot.shadow.checkpoints
            for field, path in (
                ("items", slot.items),
                ("checkpoints", slot.checkpoints),
                ("shadow.checkpoints", shadow),
            ):
                if path is not None and "://" not in path and not Path(path).exists():
                    raise ConfigError(
                        f"slots[{place}].{field} == {path!r}, must exist (looked in {Path.cwd()}). "
                        "`make run` writes both; then start Ray in the folder that holds `runs`."
                    )
