"""How the pages look: without a script, and in the reader's own light or dark."""

from __future__ import annotations

from html import escape
from typing import Any, Final

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1f2d2b }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.5rem .2rem 0; vertical-align: top }
.wide { overflow-x: auto } .wide table { width: 100% } .wide h2 { margin: 1.2rem 0 0 }
.wide td, .wide th { border-bottom: 1px solid #d5dedb; padding-right: 1rem; white-space: nowrap }
.wide td:nth-last-child(-n+2) { min-width: 11rem; white-space: normal }
small { font-weight: normal; color: #51706a; margin-left: .5rem }
mark { background: #f5e3b3; color: inherit; padding: 0 .3rem; border-radius: .2rem }
pre { background: #f2f5f4; padding: 1rem; overflow-x: auto } .error { background: #fbeceb; padding: .5rem 1rem }
@media (prefers-color-scheme: dark) { body { background: #16201e; color: #dbe5e2 } pre { background: #1f2d2b }
.error { background: #4a2422 } .wide td, .wide th { border-color: #31443f } small { color: #8fb0a8 }
mark { background: #5c4a14 } }
"""


def document(title: str, body: str) -> str:
    """Return a whole page.

    :param title: text.
    :param body: HTML.
    """
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1>{body}</html>"
    )


def error_box(what: Any, subject: Any = None, cause: Any = None, fix: Any = None) -> str:
    """Return what went wrong, as HTML."""
    lines = [f"<p><b>{escape(str(what))}</b></p>"]
    words = {"Where": subject, "Likely cause": cause, "Next step": fix}
    lines += [f"<p>{label}: {escape(str(value))}</p>" for label, value in words.items() if value]
    return f"<div class=error>{''.join(lines)}</div>"
