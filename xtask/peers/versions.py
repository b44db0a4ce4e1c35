"""Prints the versions of Python and of the peers as one JSON line. Packages that are missing are left out."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("comlrl", "torch", "transformers", "xllamacpp")


def main():
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
