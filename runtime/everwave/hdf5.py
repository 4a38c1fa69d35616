"""What to ask of an HDF5 file that may be anybody's before any of it is read; and attributes as our own files have them.

Which answers a format refuses, and in which words, is its own matter. h5py is imported only where there is a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def hard_link(group: Any, name: str) -> bool | None:
    """True if `group` holds `name` itself, False if it is a soft or external link, which is not followed, None if it is not there."""
    from h5py import h5l

    links = group.id.links
    if not links.exists(name.encode()):
        return None
    return links.get_info(name.encode()).type == h5l.TYPE_HARD


def layout(dataset: Any) -> str:
    """How plain numbers lie in the file: "compact", "contiguous" or "chunked"; "" if filtered, external or virtual."""
    from h5py import h5d

    names = {h5d.COMPACT: "compact", h5d.CONTIGUOUS: "contiguous", h5d.CHUNKED: "chunked"}
    plan = dataset.id.get_create_plist()
    return "" if plan.get_external_count() or plan.get_nfilters() else names.get(plan.get_layout(), "")


def scalar(holder: Any, name: str, limit: int) -> Any:
    """The h5py id of an attribute, or None unless it is a single value of at most `limit` bytes; KeyError if there is none."""
    attribute = holder.attrs.get_id(name)
    return attribute if attribute.shape == () and attribute.get_storage_size() <= limit else None


def set_attributes(holder: Any, values: Mapping[str, Any]) -> None:
    """Numbers and texts; those as UTF-8 of fixed length: damage in variable ones makes the HDF5 library hang or crash."""
    import h5py

    for name, value in values.items():
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogateescape")
            holder.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(len(data), 1)))
        else:
            holder.attrs[name] = value
