"""What the style sheet of reports says of colours."""

import re
from importlib import resources


def told_colours(which: str) -> dict[str, str]:
    """The colours of `light` or `dark`, by name without `--aa-`."""
    text = (resources.files("autoadapt.showing") / "templates" / "colours.css").read_text()
    inside = re.search(rf"macro {which}\(\).*?endmacro", text, re.DOTALL)
    assert inside is not None
    return dict(re.findall(r"--aa-([\w-]+): (#\w{6});", inside.group()))
