"""The licenses that a model card can name."""

from __future__ import annotations

import difflib

from gpt1.errors import UserError

# Of https://huggingface.co/docs/hub/repositories-licenses, which `hf upload` checks too.
_IDENTIFIERS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1
lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr unknown other
"""
LICENSES = _IDENTIFIERS.split()


def check_license(name: str) -> str:
    """`name`; UserError when the hub knows no such license."""
    if name and name not in LICENSES:
        near = difflib.get_close_matches(name.lower(), LICENSES, 3) or [
            "apache-2.0", "cc-by-4.0", "other",
        ]
        raise UserError(
            f"license {name!r}: the Hugging Face hub has no such identifier; expected one of its"
            f" list, such as {', '.join(near)}. Use 'other' for any other license."
        )
    return name
