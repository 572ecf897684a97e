"""Writes the chart's dashboards and rules anew: `python -m deploy.monitoring`."""

from __future__ import annotations

from pathlib import Path

from deploy.monitoring.built import files

CHART = Path(__file__).parents[2] / "charts" / "feinschliff"


def main() -> None:
    texts = files()
    for folder in {path.split("/")[0] for path in texts}:
        (CHART / folder).mkdir(parents=True, exist_ok=True)
        for old in (CHART / folder).iterdir():
            if f"{folder}/{old.name}" not in texts:
                old.unlink()
    for path, text in texts.items():
        (CHART / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
