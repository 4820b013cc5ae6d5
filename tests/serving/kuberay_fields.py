"""The fields of KubeRay's resources that deploy/kubernetes uses, as a JSON schema: no other passes.

Written from KubeRay's API reference, version 1.6.
"""

TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required=(), **known):
    return {
        "type": "object",
        "properties": known,
        "required": list(required),
        "additionalProperties": False,
    }


POD = fields(["spec"], metadata={"type": "object"}, spec={"type": "object"})
CLUSTER = fields(
    ["rayVersion", "authOptions", "headGroupSpec"],
    rayVersion=TEXT,
    authOptions=fields(["mode"], mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    headGroupSpec=fields(["template"], rayStartParams=TEXTS, template=POD),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            ["groupName", "minReplicas", "maxReplicas", "template"],
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=POD,
        ),
    },
)


def resource(kind, **spec):
    return fields(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=fields(["name"], name=TEXT, labels=TEXTS),
        spec=fields(spec, **spec),
    )


RESOURCES = {
    "RayService": resource(
        "RayService",
        upgradeStrategy=fields(
            ["type"], type={"enum": ["None", "NewCluster", "NewClusterWithIncrementalUpgrade"]}
        ),
        serveConfigV2=TEXT,
        rayClusterConfig=CLUSTER,
    ),
    "RayJob": resource(
        "RayJob",
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=CLUSTER,
        submitterPodTemplate=POD,
    ),
}
