"""Makes Serve applications of `RankerDeployment`: the one place where it is decorated and measured.

`deploy/config.yaml` names `build_app`; the simulator runs `deployment_for` under its own names.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.metrics import Counter, Gauge, Histogram

from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.settings import AppSettings

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
DEPLOYMENT = "Ranker"
"""The deployment's name within its application, as config files and metrics call it."""

STAGES = ("wait", "rank", "append", "erase")
"""Where a call's time goes: waiting for the scoring thread; there, the store read included; storing
impressions, the wait for the disk included; erasing."""

METRICS: dict[str, tuple[type[Counter | Gauge | Histogram], str, tuple[str, ...]]] = {
    "stage_ms": (Histogram, "Wall time of one call by stage, milliseconds.", ("stage",)),
    "ranked_requests": (Counter, "Ranked requests.", ("slot",)),
    "ranked_candidates": (Counter, "Ranked candidates.", ("slot",)),
    "version": (Gauge, "Version of the latest answer.", ("slot",)),
    "expired_calls": (Counter, "Calls not ranked: their deadline had passed.", ()),
    "appended": (Counter, "Impressions stored.", ()),
    "calls": (Gauge, "Rank calls at the replica.", ()),
    "state_outcomes": (Counter, "Requests by what their sequence state was.", ("slot", "outcome")),
    "state_hit_rate": (
        Gauge,
        "Share of requests since the start that a state answered.",
        ("slot",),
    ),
    "state_bytes": (Gauge, "Of sequence states.", ("slot",)),
}
"""Kind, text and labels by name; exported as `ray_ifa_ray_NAME`. A histogram gives no mean, for Ray
makes its `_sum` of bucket midpoints."""

_TOTALS = ("state_outcomes",)  # are noted as counts since the start
_BOUNDARIES_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]


class ServeMetrics:
    """Hands what a replica notes to Ray, which exports it for Prometheus; made in the replica."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        for name, (kind, text, labels) in METRICS.items():
            more = {"boundaries": _BOUNDARIES_MS} if kind is Histogram else {}
            self.metrics[name] = kind(f"ifa_ray_{name}", description=text, tag_keys=labels, **more)
        self._told: dict[tuple[str, ...], float] = {}

    def note(self, name: str, value: float, **labels: object) -> None:
        """Records one value."""
        metric, tags = self.metrics[name], {key: str(label) for key, label in labels.items()}
        if isinstance(metric, Histogram):
            metric.observe(value, tags)
        elif isinstance(metric, Gauge):
            metric.set(value, tags)
        else:
            if name in _TOTALS:
                key = (name, *tags.values())
                value, self._told[key] = value - self._told.get(key, 0), value
            if value:
                metric.inc(value, tags)


class HttpRanker(RankerDeployment):
    """A replica that answers HTTP too, and measures into Serve's own metrics."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the HTTP API of this replica, made after the constructor."""
        self.note = ServeMetrics().note
        return build_http(self)

    async def erase(self, user_id: int) -> int:
        """As `RankerDeployment.erase`; the other replicas of the application forget the user too.

        None of them uses such a state any more; this frees the memory, as far as they answer.
        """
        erased = await super().erase(user_id)
        if self.settings.num_replicas > 1:
            application = serve.get_replica_context().app_name
            handle = serve.get_deployment_handle(DEPLOYMENT, application)
            sent = handle.broadcast("forget", user_id)
            await sent.results_async(timeout_s=10, return_exceptions=True)
        return erased


def deployment_for(settings: AppSettings) -> Application:
    """The application of `settings`, for `serve.run(..., name=arm, route_prefix=None)`.

    With a route prefix it answers HTTP; its handle has the methods of `RankerDeployment`.
    """
    router = RequestRouterConfig()
    if settings.session_affinity:  # so that a user's cached states are at one replica
        router = RequestRouterConfig(request_router_class=ROUTER)
    deployment = serve.deployment(
        serve.ingress()(HttpRanker),
        name=DEPLOYMENT,
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        request_router_config=router,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
    )
    return deployment.bind(settings)


def build_app(args: dict[str, Any]) -> Application:
    """Serve's application builder: `args` are those of the config file.

    Raises:
        ConfigError: if a file or folder is missing; `serve status` shows it.
    """
    settings = AppSettings.from_dict(args)
    settings.check_paths()
    return deployment_for(settings)
