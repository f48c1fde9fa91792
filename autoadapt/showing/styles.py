"""Styles: how sections look in a page or a notebook cell, wide and narrow, light and dark."""

from __future__ import annotations

from autoadapt.showing.colours import KINDS, style_variables
from autoadapt.showing.diagrams import PICTURE_RULES
from autoadapt.showing.scatters import SCATTER_RULES

__all__ = ["RULES", "SCOPE"]

SCOPE = "autoadapt"
"""The class of the outermost element; no rule reaches beyond it."""

_HOSTS = {
    "light": f'[data-jp-theme-light="true"] .{SCOPE},.vscode-light .{SCOPE}',
    "dark": f'[data-jp-theme-light="false"] .{SCOPE},.vscode-dark .{SCOPE}',
}

_MONO = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace'

_FIXED = f"""
.{SCOPE}{{container-type:inline-size;background:var(--aa-back);color:var(--aa-ink);
font:14px/1.5 system-ui,sans-serif;text-align:left;overflow-wrap:anywhere}}
.{SCOPE} *{{box-sizing:border-box}}
.{SCOPE} section{{margin:0 0 40px}}
.{SCOPE} section section{{margin:24px 0 0}}
.{SCOPE} h1{{font-size:24px;line-height:1.25;margin:0 0 12px}}
.{SCOPE} h2{{font-size:18px;line-height:1.35;margin:0 0 12px}}
.{SCOPE} h3,.{SCOPE} h4{{font-size:15px;line-height:1.4;margin:0 0 8px}}
.{SCOPE} .aa-kindname{{color:var(--aa-muted);font-weight:400}}
.{SCOPE} .aa-name,.{SCOPE} pre,.{SCOPE} .aa-step{{font-family:{_MONO};font-size:12.5px}}
.{SCOPE} .aa-whole{{white-space:nowrap}}
.{SCOPE} b.aa-name{{font-weight:700}}
.{SCOPE} pre{{background:var(--aa-panel);color:inherit;border:1px solid var(--aa-line);border-radius:6px;
margin:8px 0;padding:10px 12px;white-space:pre-wrap}}
.{SCOPE} table{{border-collapse:collapse;margin:12px 0;min-width:min(100%,420px);
font-size:13px;table-layout:auto;border:0}}
.{SCOPE} caption{{text-align:left;font-weight:600;padding:0 0 4px}}
.{SCOPE} th,.{SCOPE} td{{text-align:left;vertical-align:top;padding:6px 16px 6px 0;background:var(--aa-back);
border:0;border-bottom:1px solid var(--aa-line);color:inherit;max-width:none;white-space:normal;overflow-wrap:normal}}
.{SCOPE} .aa-scroll{{overflow-x:auto}}
.{SCOPE} details{{margin:12px 0}}
.{SCOPE} summary{{cursor:pointer;color:var(--aa-muted)}}
.{SCOPE} tr{{background:none}}
.{SCOPE} th{{font-weight:600;font-size:12px;color:var(--aa-muted);overflow-wrap:normal}}
.{SCOPE} .aa-right{{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
.{SCOPE} th:last-child,.{SCOPE} td:last-child{{padding-right:0}}
.{SCOPE} dl{{display:grid;grid-template-columns:minmax(6em,max-content) 1fr;gap:4px 16px;margin:12px 0}}
.{SCOPE} dt{{color:var(--aa-muted);font-weight:400;overflow-wrap:normal}}
.{SCOPE} dd{{margin:0;min-width:0}}
.{SCOPE} .aa-badge{{display:inline-block;border:1px solid var(--aa-wire);border-radius:999px;padding:0 9px;
font-size:12px;font-weight:600;line-height:20px;color:var(--aa-muted);vertical-align:middle}}
.{SCOPE} td .aa-badge{{white-space:nowrap}}
.{SCOPE} .aa-good{{color:var(--aa-good);border-color:currentColor}}
.{SCOPE} .aa-bad{{color:var(--aa-bad);border-color:currentColor}}
.{SCOPE} .aa-share{{display:inline-flex;align-items:center;gap:8px;white-space:nowrap}}
.{SCOPE} .aa-bar{{display:inline-block;width:96px;height:8px;border-radius:4px;
background:var(--aa-line);overflow:hidden}}
.{SCOPE} .aa-bar i{{display:block;height:100%;background:var(--aa-rearrange-edge)}}
.{SCOPE} .aa-steps{{display:flex;flex-wrap:wrap;gap:4px 6px}}
.{SCOPE} .aa-step{{border:1px solid;border-radius:5px;padding:0 7px;line-height:20px}}
.{SCOPE} .aa-step.aa-plain{{border-color:var(--aa-line);color:var(--aa-muted)}}
.{SCOPE} .aa-faults{{border-left:3px solid var(--aa-bad);margin:12px 0;padding:2px 0 2px 14px}}
.{SCOPE} .aa-faults p{{margin:8px 0 0;font-weight:600}}
.{SCOPE} .aa-faults dl{{margin:2px 0 8px}}
.{SCOPE} .aa-faults dd{{white-space:pre-wrap}}
.{SCOPE} .aa-frame{{margin:12px 0;border:1px solid var(--aa-line);border-radius:8px;padding:4px}}
.{SCOPE} .aa-frame svg{{display:block;max-width:100%;height:auto;margin:0 auto}}
.{SCOPE} nav ol{{list-style:none;margin:0 0 32px;padding:0;border-top:1px solid var(--aa-line)}}
.{SCOPE} nav li{{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 12px;
padding:6px 0;border-bottom:1px solid var(--aa-line)}}
.{SCOPE} nav a{{color:inherit;flex:1 1 14em}}
@container (max-width:760px){{
.{SCOPE} dl{{grid-template-columns:88px minmax(0,1fr);gap:4px 10px}}
.{SCOPE} .aa-bar{{width:48px}}
.{SCOPE} th,.{SCOPE} td{{padding-right:10px}}
.{SCOPE} table{{min-width:100%}}
.{SCOPE} .aa-cards :is(table,tbody,tr,td,caption){{display:block;width:100%}}
.{SCOPE} .aa-cards thead{{display:none}}
.{SCOPE} .aa-cards tr{{border-bottom:1px solid var(--aa-line);padding:8px 0}}
.{SCOPE} .aa-cards td{{display:grid;grid-template-columns:88px minmax(0,1fr);gap:10px;text-align:left;
white-space:normal;border:0;padding:2px 0}}
.{SCOPE} .aa-cards td:empty{{display:none}}
.{SCOPE} .aa-cards td::before{{content:attr(data-label);color:var(--aa-muted);font-size:12px}}
.{SCOPE} .aa-cards td>*{{min-width:0;justify-self:start}}
}}
"""

_STEPS = "\n".join(
    f".{SCOPE} .aa-step.aa-{name}{{background:var(--aa-{name}-fill);border-color:var(--aa-{name}-edge)}}"
    for name in KINDS
)

RULES = "\n".join([style_variables(f".{SCOPE}", _HOSTS), _FIXED, _STEPS, PICTURE_RULES, SCATTER_RULES])
"""Everything a section needs, as one sheet."""
