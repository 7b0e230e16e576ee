"""``hilum store``: lists or verifies a store of prepared samples."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hilum.errors import ConfigError

if TYPE_CHECKING:
    from hilum.preparing import Store


@dataclass(frozen=True, kw_only=True)
class ShowStore:
    """List a store of prepared samples, or verify all bytes; ``verify`` exits with 1 if any sample is damaged."""

    action: tyro.conf.Positional[Literal["list", "verify"]]
    """list: each sample, the longest unused first. verify: damaged samples, and leftovers of killed writers."""

    path: tyro.conf.Positional[Path]
    """The store's folder, or CONFIG.toml."""

    repair: bool = False
    """With verify: remove damaged samples and leftovers; the next prepare makes the samples again."""

    json: bool = False
    """Print one JSON object instead of lines."""

    def run(self) -> int:
        """List or verify."""
        from hilum.preparing import Store

        if self.repair and self.action != "verify":
            msg = "--repair goes with verify"
            raise ConfigError(msg)
        store = Store(self._folder())
        return self._verify(store) if self.action == "verify" else self._list(store)

    def _folder(self) -> Path:
        from hilum.settings.toml import load

        folder = self.path
        if folder.suffix.lower() == ".toml" or (folder / "config.toml").is_file():
            folder = Path(load(folder).store)
        if not folder.is_dir():
            msg = f"there is no store {folder}"
            raise ConfigError(msg)
        return folder

    def _list(self, store: "Store") -> int:
        from datetime import UTC, datetime

        samples = store.samples()
        num_bytes = sum(one.num_bytes for one in samples)
        if self.json:
            records = [{"key": o.file.stem, "bytes": o.num_bytes, "used": round(o.used)} for o in samples]
            print(json.dumps({"num_samples": len(samples), "bytes": num_bytes, "samples": records}, indent=2))
            return 0
        for one in samples:
            used = datetime.fromtimestamp(one.used, UTC).strftime("%Y-%m-%d %H:%M")
            print(f"{one.file.stem}  {one.num_bytes / 1e6:8.2f} MB  used {used} UTC")
        print(f"{store.folder}: {len(samples)} samples, {num_bytes / 1e9:.3f} GB")
        return 0

    def _verify(self, store: "Store") -> int:
        samples = store.samples()
        damaged, leftovers = list(store.damaged(samples)), store.leftovers()
        if self.repair:
            store.remove([file for file, _ in damaged])
            store.sweep()
        num_bytes = sum(one.num_bytes for one in samples)
        if self.json:
            result = {
                "num_samples": len(samples),
                "bytes": num_bytes,
                "damaged": [{"key": file.stem, "reason": reason} for file, reason in damaged],
                "num_leftovers": len(leftovers),
                "repaired": self.repair,
            }
            print(json.dumps(result, indent=2))
        else:
            for file, reason in damaged:
                print(f"{file.relative_to(store.folder)}: {reason}")
            counts = f"{len(samples)} samples, {num_bytes / 1e9:.3f} GB, {len(damaged)} damaged"
            removed = ", removed" if self.repair and (damaged or leftovers) else ""
            print(f"{store.folder}: {counts}, {len(leftovers)} left over by killed writers{removed}")
        return 1 if damaged and not self.repair else 0
