from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class History(_message.Message):
    __slots__ = ("ids", "actions", "times_ms")
    IDS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    TIMES_MS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    actions: bytes
    times_ms: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., actions: _Optional[bytes] = ..., times_ms: _Optional[_Iterable[int]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("request_id", "user_id", "time_ms", "candidates", "channels", "history", "k", "probabilities")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    user_id: int
    time_ms: int
    candidates: _containers.RepeatedScalarFieldContainer[int]
    channels: bytes
    history: History
    k: int
    probabilities: bool
    def __init__(self, request_id: _Optional[int] = ..., user_id: _Optional[int] = ..., time_ms: _Optional[int] = ..., candidates: _Optional[_Iterable[int]] = ..., channels: _Optional[bytes] = ..., history: _Optional[_Union[History, _Mapping]] = ..., k: _Optional[int] = ..., probabilities: _Optional[bool] = ...) -> None: ...

class RankCall(_message.Message):
    __slots__ = ("requests", "slot", "min_version")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RankRequest]
    slot: int
    min_version: int
    def __init__(self, requests: _Optional[_Iterable[_Union[RankRequest, _Mapping]]] = ..., slot: _Optional[int] = ..., min_version: _Optional[int] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("request_id", "ids", "scores", "model_version", "rank_ms", "probabilities", "watermark", "degraded")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RANK_MS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    model_version: int
    rank_ms: float
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    watermark: int
    degraded: bool
    def __init__(self, request_id: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., scores: _Optional[_Iterable[float]] = ..., model_version: _Optional[int] = ..., rank_ms: _Optional[float] = ..., probabilities: _Optional[_Iterable[float]] = ..., watermark: _Optional[int] = ..., degraded: _Optional[bool] = ...) -> None: ...

class RankAnswer(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[RankResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[RankResponse, _Mapping]]] = ...) -> None: ...

class Append(_message.Message):
    __slots__ = ("user_id", "begin", "history")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    begin: int
    history: History
    def __init__(self, user_id: _Optional[int] = ..., begin: _Optional[int] = ..., history: _Optional[_Union[History, _Mapping]] = ...) -> None: ...

class AppendCall(_message.Message):
    __slots__ = ("appends",)
    APPENDS_FIELD_NUMBER: _ClassVar[int]
    appends: _containers.RepeatedCompositeFieldContainer[Append]
    def __init__(self, appends: _Optional[_Iterable[_Union[Append, _Mapping]]] = ...) -> None: ...

class Appended(_message.Message):
    __slots__ = ("user_id", "watermark", "appended")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    watermark: int
    appended: int
    def __init__(self, user_id: _Optional[int] = ..., watermark: _Optional[int] = ..., appended: _Optional[int] = ...) -> None: ...

class AppendAnswer(_message.Message):
    __slots__ = ("appended",)
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    appended: _containers.RepeatedCompositeFieldContainer[Appended]
    def __init__(self, appended: _Optional[_Iterable[_Union[Appended, _Mapping]]] = ...) -> None: ...

class UserCall(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    def __init__(self, user_id: _Optional[int] = ...) -> None: ...

class UserAnswer(_message.Message):
    __slots__ = ("user_id", "watermark", "last_ms")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    LAST_MS_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    watermark: int
    last_ms: int
    def __init__(self, user_id: _Optional[int] = ..., watermark: _Optional[int] = ..., last_ms: _Optional[int] = ...) -> None: ...

class EraseAnswer(_message.Message):
    __slots__ = ("user_id", "erased")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    erased: int
    def __init__(self, user_id: _Optional[int] = ..., erased: _Optional[int] = ...) -> None: ...

class ModelsCall(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelsAnswer(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class HealthCall(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthAnswer(_message.Message):
    __slots__ = ("status", "versions")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    status: str
    versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, status: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ...) -> None: ...
