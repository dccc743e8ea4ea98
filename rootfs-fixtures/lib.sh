# What the recipes share: a base root, layers as differences of roots, and images in one OCI layout.
# Sourced by build with $out (this build), $cache (all builds) and $here set.
# shellcheck shell=bash

layout=$out/layout
work=$out/work

# The directory of a finished root; a root is made once and only read after that.
root_of() { echo "$work/root-$1"; }

# base: Debian's minimal root, the lowest layer of all but the busybox images.
base_root() {
  local root; root=$(root_of base)
  [ -d "$root" ] && return
  debootstrap --variant=minbase --cache-dir="$cache/debs" bookworm "$root.part" "$(package_source)"
  mv "$root.part" "$root"
}

# derive NAME FROM COMMAND...: a root made of another by a function that gets its directory.
derive() {
  local name=$1 from=$2; shift 2
  local root; root=$(root_of "$name")
  [ -d "$root" ] && return
  cp -a --reflink=auto "$(root_of "$from")" "$root.part"
  "$@" "$root.part"
  mv "$root.part" "$root"
}

# install ROOT PACKAGE...: Debian packages into a root, without starting anything.
install_into() {
  local root=$1; shift
  printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  # This machine's settings are there while packages come, and in no image.
  package_settings "$root"
  mount -t proc proc "$root/proc"
  mount --bind "$cache/debs" "$root/var/cache/apt/archives"
  mkdir -p "$cache/debs/partial"
  local env_pass=()
  local name
  for name in http_proxy https_proxy no_proxy; do
    [ -n "${!name:-}" ] && env_pass+=("$name=${!name}")
  done
  local status=0
  chroot "$root" env "${env_pass[@]}" DEBIAN_FRONTEND=noninteractive sh -c \
    "apt-get -qq update && apt-get -qq -y --no-install-recommends install $*" || status=$?
  umount "$root/var/cache/apt/archives" "$root/proc"
  remove_package_settings "$root"
  rm -rf "$root/var/lib/apt/lists"/* "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
  : > "$root/etc/resolv.conf"
  return "$status"
}

# layer NAME FROM TO: the difference between two roots as an uncompressed tar with whiteouts.
layer() {
  local name=$1 from=$2 to=$3
  python3 "$here/difference.py" "$from" "$to" "$work/layer-$name.tar"
}

# image REFERENCE FORMAT CONFIG LAYER[:COMPRESSION]...: an image in the layout. FORMAT is oci, docker or index;
# CONFIG is the JSON of its `config`; COMPRESSION is gzip (usual), zstd or none.
image() {
  python3 "$here/image.py" "$layout" "$work" "$@"
}
