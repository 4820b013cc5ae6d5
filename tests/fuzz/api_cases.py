"""Cases that schemathesis makes of the OpenAPI document: right ones, and wrong by its rules."""

import contextlib

import arrow_bodies
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ifa_ray.serving import wire

NAME = "OpenAPI, by schemathesis"
WEIGHT = 4
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

schemathesis.openapi.media_type(wire.ARROW, arrow_bodies.rank_bodies)


def operations(target):
    """The operations of the document."""
    document = schemathesis.openapi.from_asgi("/openapi.json", target.api)
    return [result.ok() for result in document.get_all_operations()]


def run(target, cases, number, every=1):
    """As `campaigns.run`, evenly over operations and over right and wrong cases."""
    ran = 0
    made = operations(target)
    for operation in made:
        for mode in GenerationMode:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except schemathesis.errors.SchemathesisError:
                continue

            @seed(number)
            @settings(
                max_examples=max(1, cases // (2 * len(made))),
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            )
            @given(case=strategy)
            def once(case):
                nonlocal ran
                ran += 1
                answer = case.call()
                target.statuses[answer.status_code] += 1
                case.validate_response(answer, checks=CHECKS)
                if ran % every == 0:
                    target.check_still_right()

            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong about some operations
                once()
    return ran
