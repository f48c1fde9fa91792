"""A real browser without a window: opens pages from disk, and measures what lies where in them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
DARK = "--blink-settings=preferredColorScheme=0"


@dataclass(frozen=True)
class Opened:
    """A page after it was opened: its elements as text, and what it said to the console."""

    elements: str
    console: list[str]


def asked_for(page: str, folder: Path) -> list[str]:
    """What a browser asks a server for when it opens a page there."""
    paths: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200 if self.path == "/page" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode() if self.path == "/page" else b"")

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened(f"http://127.0.0.1:{server.server_port}/page", folder)
        server.shutdown()
    return paths


def opened(page: Path | str, folder: Path, *flags: str) -> Opened:
    """Open a page, from disk or at an address."""
    command = [str(BROWSER), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command += ["--virtual-time-budget=20000", page.as_uri() if isinstance(page, Path) else page]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(done.stdout, console)


def measured(pages: Mapping[str, str], widths: tuple[int, ...], folder: Path, *flags: str) -> dict[str, Any]:
    """Lay pages out at several widths and say of each what is too wide, cut off, or on something else.

    Each page stands unchanged in a frame of its own; the script that measures stands outside.
    """
    frames = "".join(
        f'<iframe data-name="{html.escape(name)} at {width}" style="border:0;width:{width}px;height:900px"'
        f' srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in widths
    )
    outer = folder / "frames.html"
    outer.write_text(f'<!doctype html><meta charset="utf-8">{frames}<script>{_MEASURE}</script>', encoding="utf-8")
    found = re.search(r'<pre id="found">(.*?)</pre>', opened(outer, folder, *flags).elements, re.DOTALL)
    assert found is not None, "the script that measures did not run"
    return dict(json.loads(html.unescape(found[1])))


_MEASURE = """
const inside = (a, b, by) => a.left >= b.left - by && a.right <= b.right + by
  && a.top >= b.top - by && a.bottom <= b.bottom + by;
const meet = (a, b, by) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > by
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > by;
const plain = r => ({left: r.left, right: r.right, top: r.top, bottom: r.bottom});

function texts(doc, view) {
  const found = [], walker = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const owner = node.parentElement;
    if (!node.data.trim() || owner.closest('style,title')) continue;
    const range = doc.createRange();
    range.selectNodeContents(node);
    const rects = owner.namespaceURI.endsWith('svg') ? [owner.getBoundingClientRect()] : [...range.getClientRects()];
    for (const rect of rects)
      if (rect.width > 0 && rect.height > 0) found.push({text: node.data.trim(), owner, ...plain(rect)});
  }
  return found;
}

function cut(doc, view) {
  const all = [...doc.body.querySelectorAll('*')];
  return all.filter(e => !(e instanceof view.SVGElement) || e.tagName === 'svg').filter(e =>
    view.getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
  ).map(e => `${e.tagName}.${e.getAttribute('class')} ${e.scrollWidth} > ${e.clientWidth}`);
}

function pictures(doc) {
  const faults = [];
  for (const svg of doc.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const blocks = [...svg.querySelectorAll('g:not(.aa-swatch) > rect')];
    const shapes = blocks.map(rect => plain(rect.getBoundingClientRect()));
    blocks.forEach((rect, i) => {
      for (const text of rect.parentElement.querySelectorAll('text'))
        if (!inside(plain(text.getBoundingClientRect()), shapes[i], 0.5))
          faults.push(`text out of its box: ${text.textContent}`);
      for (let j = 0; j < i; j++)
        if (meet(shapes[i], shapes[j], 0.5)) faults.push(`boxes on each other: ${blocks[i].parentElement.textContent}`);
    });
    for (const text of svg.querySelectorAll('text')) {
      const rect = plain(text.getBoundingClientRect());
      if (!inside(rect, frame, 0.5)) faults.push(`text out of the picture: ${text.textContent}`);
      blocks.forEach((other, i) => {
        if (text.parentElement !== other.parentElement && meet(rect, shapes[i], 1))
          faults.push(`text on a box: ${text.textContent}`);
      });
    }
    const places = blocks.map(rect => rect.getBBox());
    for (const path of svg.querySelectorAll('path:not(.aa-tip)'))
      for (let at = 0; at < path.getTotalLength(); at += 3) {
        const p = path.getPointAtLength(at);
        if (places.some(b => p.x > b.x + 1 && p.x < b.x + b.width - 1 && p.y > b.y + 1 && p.y < b.y + b.height - 1)) {
          faults.push(`line through a box: ${path.getAttribute('d')}`);
          break;
        }
      }
  }
  return faults;
}

const ALIEN = 'script,img,iframe,object,embed,form,input,base,link:not([rel=icon])';
const letters = svg => 10.5 * svg.getBoundingClientRect().width / svg.getAttribute('width');

function measure(frame) {
  const doc = frame.contentDocument, view = frame.contentWindow, root = doc.documentElement;
  for (const folded of doc.querySelectorAll('details')) folded.open = true;
  const all = texts(doc, view), overlaps = [];
  all.forEach((one, i) => {
    for (let j = 0; j < i; j++)
      if (one.owner !== all[j].owner && meet(one, all[j], 2)) overlaps.push(`${one.text} | ${all[j].text}`);
  });
  const shown = [...doc.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width > 0);
  return {
    texts: all.length,
    too_wide: root.scrollWidth - root.clientWidth,
    outside: all.filter(t => t.left < -0.5 || t.right > root.clientWidth + 0.5).map(t => t.text),
    cut: cut(doc, view),
    overlaps,
    pictures: shown.length,
    picture_faults: pictures(doc),
    smallest_letters: Math.min(99, ...shown.map(letters)),
    alien: [...doc.querySelectorAll(ALIEN)].map(e => e.outerHTML),
    badges: [...new Set([...doc.querySelectorAll('.aa-badge')].map(e => e.getBoundingClientRect().height))],
    names: [...doc.querySelectorAll('b.aa-name')].map(e => e.textContent),
    ink: view.getComputedStyle(doc.querySelector('.autoadapt') || doc.body).color,
    back: view.getComputedStyle(doc.querySelector('.autoadapt') || doc.body).backgroundColor,
    picture_ink: shown.map(svg => view.getComputedStyle(svg.querySelector('.aa-name') || svg).fill)[0] || '',
  };
}

addEventListener('load', () => {
  const found = {};
  for (const frame of document.querySelectorAll('iframe')) found[frame.dataset.name] = measure(frame);
  const pre = document.createElement('pre');
  pre.id = 'found';
  pre.textContent = JSON.stringify(found);
  document.body.replaceChildren(pre);
});
"""
