"""The API in OpenAPI 3.1, and the tables of fields by which its requests are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import __version__, checks
from ..model import Model
from ..philox import MAX_SEED
from .fields import Field
from .limits import Limits

SECONDS = 30.0  # of a piece, unless it is said
Json = dict[str, Any]

SEED = Field("seed", "integer", "which piece; drawn if it is left out, and told in x-everwave-seed", 0, MAX_SEED)
STEERING = (
    Field("truncation", "number", "how far from the usual: less is tamer", 0, checks.MAX_TRUNCATION, checks.TRUNCATION),
    Field("style", "integer", "the seed whose style to take; default: that of `seed`", 0, MAX_SEED),
    Field("gain", "number", "loudness", 0, checks.MAX_GAIN, 1.0),
)
START = Field("start", "number", "seconds into the piece", 0, checks.MAX_START, 0.0)


class Description:
    """What requests to these models may say."""

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        self._models, self._limits = models, limits
        name = Field("model", "string", f"one of {', '.join(models)}", default=next(iter(models), None))
        seconds = Field("seconds", "number", "length", 0.1, limits.generate_seconds, SECONDS)
        conditions = {c.name: Field(c.name, "number", ", ".join(filter(None, (c.unit, "for models that have it"))))
                      for model in models.values() for c in model.conditions}  # fmt: skip
        common = _table(name, SEED, START, *STEERING)
        self.stream = common | conditions
        self.generate = common | _table(seconds) | conditions
        self.replay = _table(name)

    def controls_of(self, name: str) -> dict[str, Field]:
        """What may change while a stream of this model plays."""
        conditions = [Field(c.name, "number", c.unit) for c in self._models[name].conditions]
        return _table(*STEERING, *conditions)

    def document(self) -> Json:
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "everwave",
                "version": __version__,
                "description": "Endless, repeatable music. The same model, seed and controls give the same samples.",
            },
            "paths": {
                "/api/models": {"get": self._models_operation()},
                "/api/generate": {"post": self._generate_operation()},
                "/api/stream": {"get": self._stream_operation()},
                "/api/station": {"get": self._station_operation()},
            },
            "components": {"schemas": {"Error": _object({"error": {"type": "string"}}), "Log": LOG}},
        }

    def _models_operation(self) -> Json:
        model = _object({
            "name": {"type": "string"}, "sample_rate": {"type": "integer", "description": "Hz"},
            "conditions": {"type": "array", "items": _object({
                "name": {"type": "string"}, "unit": {"type": "string"},
                "low": {"type": "number"}, "high": {"type": "number"}, "mean": {"type": "number"},
                "choices": {"type": "array", "items": {"type": "number"}, "description": "values it was trained on, if few"},
            })},
            "lacks": {"type": "object", "description": "why a control is not there",
                      "additionalProperties": {"type": "string"}},
            "licence": {"type": "string"},
        })  # fmt: skip
        content = _object({
            "models": {"type": "array", "items": model},
            "limits": _object({"generate_seconds": {"type": "number"}, "listeners": {"type": "integer"}}),
            "listeners": {"type": "integer", "description": "now"},
        })  # fmt: skip
        return _operation("models", "The models that are loaded here", {"application/json": {"schema": content}})

    def _generate_operation(self) -> Json:
        piece = {"type": "object", "properties": _schemas(self.generate), "additionalProperties": False}
        replay = _object(_schemas(self.replay) | {"log": {"$ref": "#/components/schemas/Log"}})
        replay["required"] = ["log"]
        body = {"required": True, "content": {"application/json": {"schema": {"oneOf": [piece, replay]}}}}
        text = "A piece, or exactly what a stream has played according to its log, as 16-bit stereo WAV"
        operation = _operation("generate", text, WAV, 400, 403, 404, 408, 413, 415, 429, 503)
        return operation | {"requestBody": body}

    def _station_operation(self) -> Json:
        text = "The piece that everybody hears at the same time, as an endless 16-bit stereo WAV in real time"
        return _operation("station", text, WAV, 400, 403, 404, 429, 503) | {"parameters": _in_query(self.replay)}

    def _stream_operation(self) -> Json:
        text = (
            "An endless 16-bit stereo WAV in real time. As a WebSocket with the same parameters: the first message is "
            '{"type": "start", "log"}, then 16-bit little-endian samples come in binary messages. The listener reports '
            '{"played": frames in all}, may ask for {"ahead": seconds}, and changes controls with '
            '{"set": {"truncation": 1.5}, "glide": 4}, where null for `style` or a condition is what the seed gives '
            "(`truncation` and `gain` take numbers only); the answer is "
            '{"type": "changed", '
            '"from", "changes"}: the part of the log from frame `from` on. {"type": "refused", "message"} answers what cannot be done, '
            '{"type": "end", "message"} comes before the server hangs up, with code 1013 (busy), 1008 (against the rules), '
            "1003 (a binary message) or 1011 (a failure); two closes come without it: 1009 after a message of more than "
            "16,384 bytes, and 1012 when the server is stopped."
        )
        return _operation("stream", text, WAV, 400, 403, 404, 429, 503) | {"parameters": _in_query(self.stream)}


WAV: Json = {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}
STATUSES = {
    400: "something is unknown or out of range",
    403: "not from here",
    404: "no such model",
    408: "the request came too slowly",
    413: "the request is too large",
    415: "not JSON",
    429: "too many requests from this address",
    503: "busy",
}


def _table(*fields: Field) -> dict[str, Field]:
    return {field.name: field for field in fields}


def _schemas(fields: Mapping[str, Field]) -> Json:
    return {name: field.schema() for name, field in fields.items()}


def _in_query(fields: Mapping[str, Field]) -> list[Json]:
    return [
        {"name": name, "in": "query", "required": False, "schema": field.schema()} for name, field in fields.items()
    ]


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _operation(name: str, text: str, content: Json, *statuses: int) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    errors = {str(status): {"description": STATUSES[status], "content": error} for status in statuses}
    return {
        "operationId": name,
        "summary": text.partition(".")[0],
        "description": text,
        "responses": {"200": {"description": "OK", "content": content}} | errors,
    }


LOG: Json = {
    "type": "object",
    "description": "All that decides what was heard: a stream tells it, /api/generate makes it again, exactly",
    "required": ["sample_rate", "seed", "start", "frames", "controls", "changes"],
    "properties": {
        "sample_rate": {"type": "integer"},
        "seed": SEED.schema(),
        "start": {"type": "integer", "description": "frame of the piece"},
        "frames": {"type": "integer", "description": "how many were heard"},
        "controls": {"type": "object", "description": "at the start", "additionalProperties": {}},
        "changes": {
            "type": "array",
            "items": {"type": "object", "required": ["at"], "properties": {"at": {"type": "integer"}}},
        },
    },
}
