#!/usr/bin/env bash
# Installs what `npm run demo` or `npm test` needs and this machine lacks. With nothing missing it takes a fraction of
# a second and changes nothing. It starts no service: Redis and Ceph are started privately by whoever needs them.
#
#   deploy/bootstrap.sh demo    node_modules, redis-server, the native JPEG decoder, the page, some photographs
#   deploy/bootstrap.sh test    these, Ceph's S3 gateway, Pillow as the reference for pixels, wrong clocks for the chaos tests,
#                               Chromium for those of the page, Prometheus for those of the alerts and the dashboard
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-demo}
cache=${LENSMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lensmill}
mkdir -p "$cache"
log=$cache/bootstrap.log

case $purpose in
  demo | test) ;;
  *) echo "usage: deploy/bootstrap.sh [demo|test]" >&2 && exit 2 ;;
esac

main() {
  # One at a time; where there is no flock (macOS) two at once merely do the work twice.
  if has flock; then exec 9>"$cache/bootstrap.lock" && flock 9; fi
  ensure_node_modules
  ensure_packages
  ensure_native
  ensure_page
  ensure_photographs
}

has() { command -v "$1" >/dev/null; }
say() { echo "lensmill: $*" >&2; }

# quietly WHAT COMMAND…: one line for people; all that the command says if, and only if, it fails.
quietly() {
  say "${doing:-installing} $1 …"
  shift
  local status
  set +e # `|| status=$?` would switch errexit off inside the command too
  (
    set -e
    "$@"
  ) >"$log" 2>&1 9>&-
  status=$?
  set -e
  if ((status)); then
    cat "$log" >&2
    say "this failed: $*"
    exit 1
  fi
}

ensure_node_modules() {
  # The npm that runs us may have put node_modules/.bin first on PATH; `npm ci` begins by deleting that folder.
  local outside=${PATH//"$PWD/node_modules/.bin:"/}
  if [[ ! -e node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
    # npm <11.11 does not know allowScripts: `skip` keeps onnxruntime-node from downloading CUDA libraries.
    PATH=$outside ONNXRUNTIME_NODE_INSTALL=skip quietly "npm packages" npm ci --loglevel=error
  fi
  local version
  version=$(PATH=$PWD/node_modules/.bin:$outside node --version)
  if ! printf '%s\n' v22.19.0 "$version" | sort --version-sort --check=quiet; then
    say "Node $version is too old and npm's node package did not bring Node 24; install Node 22.19 or newer"
    exit 1
  fi
}

has_pillow() { /usr/bin/python3 -c 'import PIL' || python3 -c 'import PIL'; } 2>/dev/null

ensure_packages() {
  local missing=()
  if [[ $purpose == test ]]; then
    has redis-server || missing+=(redis-server)
    for program in radosgw ceph-mon ceph-osd; do has "$program" || missing+=("$program"); done
    has_pillow || missing+=(python3-pil)
    has faketime || missing+=(faketime)
    has openssl || missing+=(openssl)
    has chromium || missing+=(chromium)
    { has prometheus && has promtool; } || missing+=(prometheus)
  elif [[ -z ${REDIS_URL:-} ]]; then
    has redis-server || missing+=(redis-server)
  fi
  ((${#missing[@]})) || return 0
  if ! has apt-get || ! can_be_root; then
    explain "${missing[@]}"
    exit 1
  fi
  quietly "${missing[*]}" apt_install "${missing[@]}"
}

can_be_root() { ((EUID == 0)) || sudo -n true 2>/dev/null; }
as_root() { if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi; }

# Debian starts a server as it is installed, and again at each boot. policy-rc.d forbids the first, update-rc.d the second.
apt_install() {
  local policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
  fi
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300
    install -y --no-install-recommends "$@")
  as_root "${install[@]}" || { apt_update && as_root "${install[@]}"; }
  local service
  for service in redis-server prometheus; do
    [[ " $* " != *" $service "* ]] || as_root update-rc.d "$service" disable
  done
}

# The lists have a lock that apt-get does not wait for; a machine that has just booted may hold it.
apt_update() {
  for _ in {1..30}; do
    as_root apt-get update && return
    sleep 2
  done
  return 1
}

has_jpeglib() { printf '#include <stdio.h>\n#include <jpeglib.h>\n' | cc -E -; } >/dev/null 2>&1

# Optional: without it sharp decodes, to the same pixels. build-native.sh says so.
ensure_native() {
  if ! has_jpeglib && has apt-get && can_be_root; then
    (quietly "a C compiler and libjpeg-turbo" apt_install gcc libc6-dev libjpeg-dev) || true
  fi
  deploy/build-native.sh
}

# What `lensmill serve` serves; built again when a source of it is newer.
ensure_page() {
  local built=src/web/public/index.html
  [[ ! -e $built || -n $(find src/web/page package-lock.json -newer $built -print -quit) ]] || return 0
  doing=building quietly "the page" npm run build:page
}

explain() {
  say "this machine lacks $*, and this script may not install here. Please type:"
  if [[ $purpose == demo ]]; then
    cat >&2 <<'EOF'
    Debian, Ubuntu   sudo apt-get install redis-server
    Fedora           sudo dnf install redis
    macOS            brew install redis
and then `npm run demo` again; or set REDIS_URL to a Redis of your own.
EOF
  else
    cat >&2 <<EOF
    Debian, Ubuntu   sudo apt-get install --no-install-recommends $*
    Fedora           sudo dnf install redis ceph-radosgw ceph-mon ceph-osd python3-pillow libfaketime chromium golang-github-prometheus
    elsewhere        docker run --rm -it -v "\$PWD":/lensmill -w /lensmill node:24-bookworm npm test
and then \`npm test\` again.
EOF
  fi
}

# Real photographs from two Debian packages (36 MB), unpacked, not installed. What else is in them (drawings, test
# patterns, a slide under a microscope) is left out.
skimage='astronaut brick camera chelsea coffee coins grass gravel hubble_deep_field moon motorcycle_left
  motorcycle_right retina rocket'
lomiri='Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede
  aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich
  life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt
  sunset_by_Aitzol_Berasategi'

ensure_photographs() {
  [[ ! -e $cache/photographs/README ]] || return 0
  if has apt-get; then
    quietly "photographs in $cache/photographs" fetch_photographs
  else
    say "no photographs: they come from Debian packages. Use a folder of your own: npm run demo -- FOLDER"
    [[ $purpose == demo ]]
  fi
}

fetch_photographs() (
  work=$(mktemp -d "$cache/photographs.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  download=(apt-get download python3-skimage lomiri-wallpapers-16.04)
  "${download[@]}" || { can_be_root && apt_update && "${download[@]}"; }
  for package in ./*.deb; do dpkg -x "$package" all; done

  mkdir photographs
  for name in $skimage; do cp all/usr/lib/python3/dist-packages/skimage/data/"$name".* photographs; done
  for name in $lomiri; do cp all/usr/share/backgrounds/"$name".jpg photographs; done
  {
    echo "Photographs for lensmill's demo and tests, unpacked by deploy/bootstrap.sh from the Debian packages"
    printf '  %s\n' *.deb
    echo "Those of scikit-image are in the public domain or CC0 (see the documentation of skimage.data)."
    echo "Names, authors and licences of the others, from Debian's copyright file:"
    echo
    cat all/usr/share/doc/lomiri-wallpapers-16.04/copyright
  } >photographs/README
  rm -rf "$cache/photographs"
  mv photographs "$cache/photographs"
)

main
