"""The JSON Schema of the configuration file, for editors and for `tampah check --schema`.

It describes what may be written (`10s`, `64MiB`), not what is made of it. Defaults are written as they would be in
the file.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from resolver.config.model import (
    Admin,
    Cache,
    Category,
    Certificate,
    Config,
    Connections,
    Cookies,
    Dns64,
    Dnssec,
    Ecs,
    Fetch,
    Group,
    Guard,
    Identity,
    ListConfig,
    Listen,
    QueryLog,
    RateLimit,
    Rebinding,
    Rewrite,
    Route,
    Sinkhole,
    SpecialNames,
    StructuredErrors,
    TsigKey,
    Upstream,
    Window,
)

SECTIONS: tuple[type[BaseModel], ...] = (
    *(Admin, Cache, Category, Certificate, Config, Connections, Dns64, Dnssec, Fetch, Group, Guard, Listen, ListConfig),
    *(QueryLog, RateLimit, Rebinding, Rewrite, Route, Sinkhole, SpecialNames, TsigKey, Upstream, Window),
    *(Cookies, Ecs, Identity, StructuredErrors),
)


class _Generator(GenerateJsonSchema):
    """Leaves defaults to `json_schema`, which writes them as text."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 – pydantic's own shape


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the configuration file."""
    schema = Config.model_json_schema(mode="validation", schema_generator=_Generator)
    schema["title"] = "Tampah configuration"
    definitions = schema["$defs"]
    for section in SECTIONS:
        properties = (schema if section is Config else definitions[section.__name__])["properties"]
        fields = {field.alias or name: (name, field) for name, field in section.model_fields.items()}
        given = {key: field for key, (_, field) in fields.items() if not field.is_required()}
        written = section.model_construct(
            **{key: field.get_default(call_default_factory=True) for key, field in given.items()}
        )
        names = {fields[key][0] for key in given}
        texts = written.model_dump(mode="json", warnings=False, by_alias=True, include=names)
        for name in given:
            if texts[name] is None:
                properties[name].pop("default", None)
            else:
                properties[name]["default"] = texts[name]
        for name, described in properties.items():
            described.setdefault("description", fields[name][1].description)
            if "patternProperties" in described:
                described["additionalProperties"] = False
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}
