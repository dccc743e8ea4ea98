"""registry.py LAYOUT STORAGE: the images of an OCI layout as the storage directory of a distribution registry.

Blobs are hard links; a registry started on the directory serves at once, with every digest as it was built.
"""

import json
import os
import sys


def main(layout, storage):
    base = os.path.join(storage, "docker", "registry", "v2")

    def link(path, digest):
        path = os.path.join(base, "repositories", path)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "link"), "w") as file:
            file.write(digest)

    def blob(digest):
        hexa = digest.split(":")[1]
        target = os.path.join(base, "blobs", "sha256", hexa[:2], hexa)
        source = os.path.join(layout, "blobs", "sha256", hexa)
        os.makedirs(target, exist_ok=True)
        if not os.path.exists(os.path.join(target, "data")):
            os.link(source, os.path.join(target, "data"))

    def manifest(repository, digest):
        blob(digest)
        hexa = digest.split(":")[1]
        link(f"{repository}/_manifests/revisions/sha256/{hexa}", digest)
        with open(os.path.join(layout, "blobs", "sha256", hexa)) as file:
            content = json.load(file)
        for item in content.get("manifests", []):
            manifest(repository, item["digest"])
        for item in content.get("layers", []) + ([content["config"]] if "config" in content else []):
            blob(item["digest"])
            link(f"{repository}/_layers/sha256/{item['digest'].split(':')[1]}", item["digest"])

    with open(os.path.join(layout, "index.json")) as file:
        index = json.load(file)
    for item in index["manifests"]:
        name = item["annotations"]["io.containerd.image.name"].split("/", 1)[1]
        repository, tag = name.rsplit(":", 1)
        for place in [repository] + (["private/app"] if repository == "library/busybox" else []):
            manifest(place, item["digest"])
            hexa = item["digest"].split(":")[1]
            link(f"{place}/_manifests/tags/{tag}/current", item["digest"])
            link(f"{place}/_manifests/tags/{tag}/index/sha256/{hexa}", item["digest"])


main(*sys.argv[1:])
