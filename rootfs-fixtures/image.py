"""image.py LAYOUT WORK REFERENCE FORMAT CONFIG LAYER...: adds an image to an OCI layout.

FORMAT: oci, docker (media types of Docker's schema 2), or index (one entry for amd64, one for a foreign
platform that is not there, one attestation).
"""

import gzip
import hashlib
import json
import os
import platform
import subprocess
import sys

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


class Layout:
    def __init__(self, path):
        self.path = path
        os.makedirs(os.path.join(path, "blobs", "sha256"), exist_ok=True)
        with open(os.path.join(path, "oci-layout"), "w") as file:
            file.write('{"imageLayoutVersion":"1.0.0"}')

    def put(self, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.path, "blobs", "sha256", digest), "wb") as file:
            file.write(data)
        return "sha256:" + digest, len(data)

    def name(self, reference, descriptor):
        path = os.path.join(self.path, "index.json")
        index = {"schemaVersion": 2, "manifests": []}
        if os.path.exists(path):
            with open(path) as file:
                index = json.load(file)
        descriptor["annotations"] = {
            "org.opencontainers.image.ref.name": reference,
            "io.containerd.image.name": reference,
        }
        index["manifests"] = [m for m in index["manifests"] if m["annotations"] != descriptor["annotations"]]
        index["manifests"].append(descriptor)
        with open(path, "w") as file:
            json.dump(index, file)


def compressed(work, layer, how):
    """The compressed layer and the digest of its contents; made once for each pair."""
    with open(os.path.join(work, f"layer-{layer}.tar"), "rb") as file:
        plain = file.read()
    diff_id = "sha256:" + hashlib.sha256(plain).hexdigest()
    if how == "none":
        return plain, diff_id
    kept = os.path.join(work, f"layer-{layer}.{how}")
    if not os.path.exists(kept):
        if how == "gzip":
            data = gzip.compress(plain, 6, mtime=0)
        else:
            data = subprocess.run(["zstd", "-3", "-q", "-c"], input=plain, stdout=subprocess.PIPE, check=True).stdout
        with open(kept, "wb") as file:
            file.write(data)
    with open(kept, "rb") as file:
        return file.read(), diff_id


def main(layout, work, reference, form, config, *layers):
    layout = Layout(layout)
    descriptors, diff_ids = [], []
    for layer in layers:
        name, _, how = layer.partition(":")
        data, diff_id = compressed(work, name, how or "gzip")
        digest, size = layout.put(data)
        if form == "docker":
            media = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        else:
            suffix = {"": "+gzip", "gzip": "+gzip", "zstd": "+zstd", "none": ""}[how]
            media = "application/vnd.oci.image.layer.v1.tar" + suffix
        descriptors.append({"mediaType": media, "digest": digest, "size": size})
        diff_ids.append(diff_id)
    configuration = {
        "architecture": ARCH,
        "os": "linux",
        "config": json.loads(config),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": layer} for layer in layers],
    }
    digest, size = layout.put(json.dumps(configuration).encode())
    media = "application/vnd.docker.container.image.v1+json" if form == "docker" else "application/vnd.oci.image.config.v1+json"
    kind = DOCKER if form == "docker" else OCI
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": media, "digest": digest, "size": size},
        "layers": descriptors,
    }
    digest, size = layout.put(json.dumps(manifest).encode())
    descriptor = {"mediaType": kind, "digest": digest, "size": size}
    if form == "index":
        foreign = "arm64" if ARCH == "amd64" else "amd64"
        # A manifest for another platform: an index names it, this machine must never need its layers.
        stub = dict(manifest, layers=[], annotations={"platform": foreign})
        stub_digest, stub_size = layout.put(json.dumps(stub).encode())
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {"mediaType": kind, "digest": stub_digest, "size": stub_size, "platform": {"os": "linux", "architecture": foreign}},
                dict(descriptor, platform={"os": "linux", "architecture": ARCH}),
                {"mediaType": kind, "digest": stub_digest, "size": stub_size,
                 "platform": {"os": "unknown", "architecture": "unknown"},
                 "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
            ],
        }
        digest, size = layout.put(json.dumps(index).encode())
        descriptor = {"mediaType": INDEX, "digest": digest, "size": size}
    layout.name(reference, descriptor)


main(*sys.argv[1:])
