"""Looks for serious faults of accessibility in HTML pages, in light and dark, with axe-core in a real Chromium.

npm pack axe-core && tar xzf axe-core-*.tgz && make docs
python tests/accessibility.py package/axe.min.js site report.html
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "reports"))

from browser import DARK, opened

SERIOUS = ("serious", "critical")
_RUN = """
<script src="{axe}"></script><script>
axe.run(document, {{resultTypes: ["violations"]}}).then(found => {{
  const told = document.createElement("pre");
  told.id = "axe-found";
  told.textContent = JSON.stringify(found.violations.map(
    one => [one.impact, one.id, one.nodes.map(node => node.html.slice(0, 120) + " " + node.failureSummary)]));
  document.body.append(told);
}});
</script></body>"""


def faults(page: Path, axe: Path, folder: Path, *flags: str) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds in a page: impact, rule, and the elements; the page's folder is written to.

    On a busy machine the browser may end before the script does; then it is tried again, each time with a profile of
    its own, which no browser holds that has not ended yet.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # it would stop this script too
    tried = page.with_name(f"{page.stem}.axe.html")
    tried.write_text(text.replace("</body>", _RUN.format(axe=axe.resolve().as_uri())), encoding="utf-8")
    for _ in range(8):
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as profile:
            shown = opened(tried.resolve(), Path(profile), *flags).elements
        found = re.search(r'<pre id="axe-found"[^>]*>(.*?)</pre>', shown, re.DOTALL)
        if found is not None:
            break
    tried.unlink()
    if found is None:
        raise RuntimeError(f"axe-core did not run in {page}")
    return [tuple(one) for one in json.loads(html.unescape(found[1]))]


def pages(places: list[Path], folder: Path) -> Iterator[Path]:
    """The pages among files and folders, as copies."""
    for number, place in enumerate(places):
        copied = folder / str(number)
        if place.is_dir():
            shutil.copytree(place, copied)
            yield from sorted(copied.rglob("*.html"))
        else:
            copied.mkdir()
            yield Path(shutil.copy(place, copied))


def main() -> None:
    """Say what is found; exit with 1 where something of it is serious."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axe", type=Path)
    parser.add_argument("places", type=Path, nargs="+")
    chosen = parser.parse_args()
    serious = looked = 0
    with tempfile.TemporaryDirectory() as made:
        for page in pages(chosen.places, Path(made)):
            for theme, flags in (("light", ()), ("dark", (DARK,))):
                looked += 1
                for impact, rule, elements in faults(page, chosen.axe, Path(made), *flags):
                    serious += impact in SERIOUS
                    print(f"{page.relative_to(made)} {theme}: {impact}: {rule}", *elements[:3], sep="\n    ")
    print(f"{looked} pages, {serious} serious findings")
    sys.exit(serious > 0)


if __name__ == "__main__":
    main()
