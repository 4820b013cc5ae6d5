"""Makes Serve applications of `RankerService`: the one place where it is decorated.

`deploy/config.yaml` names `build_app`; the simulator runs `deployment_for` under its own names.
"""

# No `from __future__ import annotations`: Serve reads build_app's annotation as a class.
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from ifa_ray.serving.grpc_service import RankerService
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.user_router import ROUTER

__all__ = ["DEPLOYMENT", "build_app", "deployment_for"]

DEPLOYMENT = "Ranker"
"""The deployment's name within its application, as config files and metrics call it."""


def deployment_for(settings: AppSettings) -> Application:
    """The application of `settings`, for `serve.run(..., name=arm, route_prefix=None)`.

    With a route prefix it answers HTTP; its handle has the methods of `RankerService`.
    """
    router = RequestRouterConfig()
    if settings.store_shards:  # replicas share histories, and each keeps its own users' states
        router = RequestRouterConfig(request_router_class=ROUTER)
    deployment = serve.deployment(
        serve.ingress()(RankerService),
        name=DEPLOYMENT,
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        # By HTTP; Serve's gRPC proxy has no such hint.
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        request_router_config=router,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
    )
    return deployment.bind(settings)


def build_app(args: AppSettings) -> Application:
    """Serve's application builder: `args` are those of the config file.

    Raises:
        ConfigError: if a file or folder is missing; `serve status` shows it.
    """
    args.check_paths()
    return deployment_for(args)
