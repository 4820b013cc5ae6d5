"""Makes Serve applications of `RankerDeployment`: the one place where it is decorated.

`deploy/config.yaml` names `build_app`; the simulator runs `deployment_for` under its own names.
"""

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from ifa_ray.serving.deployment import RankerDeployment
from ifa_ray.serving.http_api import build_http
from ifa_ray.serving.measures import ServeMeasures
from ifa_ray.serving.settings import AppSettings

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
DEPLOYMENT = "Ranker"
"""The deployment's name within its application, as config files and metrics call it."""


class HttpRanker(RankerDeployment):
    """A replica that answers HTTP too, and measures into Serve's own metrics."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the HTTP API of this replica, made after the constructor."""
        self.measures = ServeMeasures()
        return build_http(self)


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
