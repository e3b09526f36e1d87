"""Property documents: nested JSON to a flat map and back, merging and patching.

A document may nest, use dotted keys, or mix both; `a.b` and `{"a": {"b": ...}}` are the same path. Where a path has
a value and deeper paths too, the nested form keeps the value under `@tag` inside the object. Pure functions on JSON
values; the typed view that constraints are evaluated against is `property_set`.

The rules are those of the original daemon, as `docs/language.md` states them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from protocols.market.language import json_text
from protocols.market.language.errors import PropertyError
from protocols.market.language.limits import MAX_DEPTH, MAX_PROPERTIES

if TYPE_CHECKING:
    from protocols.market.language.json_text import Json

TAG = "@tag"
"""The key that holds the value of a path which also has children."""


def flatten(document: Json) -> dict[str, Json]:
    """Return the flat map of a document, keys sorted bytewise.

    Only objects are descended into; lists, and objects without members, are values. Where two spellings give the
    same path, the one that comes last in key order wins. A bare value is a property without a name.

    Raises:
        PropertyError: not JSON, more than MAX_PROPERTIES, or nested too deep.
    """
    json_text.check(document)
    return flatten_checked(document)


def flatten_checked(document: Json) -> dict[str, Json]:
    """Return what `flatten` does of a document that `json_text.decode` returned or `json_text.check` accepted."""
    flat: dict[str, Json] = {}
    _flatten_into(flat, "", document, 0)
    for path in flat:
        if path.count(".") >= MAX_DEPTH:
            raise PropertyError(f"the property name {path[:64]!r}... has more than {MAX_DEPTH} segments")
    return dict(sorted(flat.items()))


def expand(document: Json) -> Json:
    """Return the document with every dotted key split into nested objects, also inside lists.

    Raises:
        PropertyError: not JSON, or nested too deep.
    """
    json_text.check(document)
    return _expand(document, 0)


def merge(base: Json, over: Json) -> Json:
    """Return both documents expanded, `over` laid over `base`.

    Where one has a value and the other children, both are kept (`@tag`). A null gives way to children.

    Raises:
        PropertyError: not JSON, or nested too deep.
    """
    return _laid_over(expand(base), expand(over))


def patch(base: Json, over: Json) -> Json:
    """Return `base` with what `over` says replaced: objects are descended into, all else is replaced whole.

    Raises:
        PropertyError: not JSON, or nested too deep.
    """
    json_text.check(base)
    json_text.check(over)
    return _patched(base, over)


def canonical_text(document: Json) -> str:
    """Return the text of a document that is stored, sent and hashed: flat, compact, keys sorted bytewise.

    Raises:
        PropertyError: not a document within the limits.
    """
    return json_text.encode(flatten(document))


def flat_lines(document: Json) -> list[str]:
    """Return the flat map as `name=<compact JSON>` lines, sorted.

    Raises:
        PropertyError: not a document within the limits.
    """
    return sorted(f"{name}={json_text.encode(value)}" for name, value in flatten(document).items())


def _flatten_into(flat: dict[str, Json], prefix: str, value: Json, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise PropertyError(f"the properties are nested deeper than {MAX_DEPTH} levels")
    if not _is_object(value) or not value:
        _put(flat, prefix, value)
        return
    for key in sorted(value):
        if key == TAG:
            _put(flat, prefix, value[key])
        else:
            _flatten_into(flat, f"{prefix}.{key}" if prefix else key, value[key], depth + 1)


def _put(flat: dict[str, Json], path: str, value: Json) -> None:
    flat[path] = value
    if len(flat) > MAX_PROPERTIES:
        raise PropertyError(f"there are more than {MAX_PROPERTIES} properties")


def _expand(value: Json, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise PropertyError(f"the properties expand to more than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_expand(item, depth + 1) for item in value]
    if not _is_object(value):
        return value
    expanded: dict[str, Json] = {}
    for key in sorted(value):
        head, *rest = key.split(".")
        if depth + len(rest) > MAX_DEPTH:
            raise PropertyError(f"the property name {key[:64]!r}... has more than {MAX_DEPTH} segments")
        branch = _expand(value[key], depth + 1 + len(rest))
        for segment in reversed(rest):
            branch = {segment: branch}
        expanded[head] = _laid_over(expanded[head], branch) if head in expanded else branch
    return expanded


def _laid_over(base: Json, over: Json) -> Json:
    if _is_object(base) and _is_object(over):
        merged = dict(base)
        for key in sorted(over):
            merged[key] = _laid_over(merged.get(key), over[key])
        return merged
    if _is_object(over):
        return over if base is None else {**over, TAG: base}
    if _is_object(base):
        return base if over is None else {**base, TAG: over}
    return over


def _patched(base: Json, over: Json) -> Json:
    if not (_is_object(base) and _is_object(over)):
        return over
    patched = dict(base)
    for key in sorted(over):
        patched[key] = _patched(patched[key], over[key]) if key in patched else over[key]
    return patched


def _is_object(value: Json) -> TypeGuard[dict[str, Json]]:
    return isinstance(value, dict)
