#!/usr/bin/env bash
# Builds the native JPEG decoder: src/pixels/jpeg.c to the jpeg.node beside it, which lensmill uses from then on. Needs a C
# compiler, libjpeg-turbo's header and library, and the headers of Node-API. Where one is missing it says so and builds
# nothing: sharp then decodes JPEGs, to the same pixels, at three times the price. What is up to date is left alone.
#
#   deploy/build-native.sh [FOLDER]    where jpeg.c is; by itself, it finds the one of this repository or package
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "lensmill: $*" >&2; }
skip() {
  rm -f "$folder/jpeg.node"
  say "no native JPEG decoder, so sharp decodes: $*"
  exit 0
}

folder=${1:-}
for candidate in src/pixels dist/src/pixels; do
  [[ -n $folder || ! -e $candidate/jpeg.c ]] || folder=$candidate
done
[[ ! $folder/jpeg.node -nt $folder/jpeg.c ]] || exit 0

# npm's node package comes without its headers; an installed Node has them beside its bin folder. Where lensmill is a package, npm
# puts other packages beside it.
for headers in node_modules/node-api-headers/include ../node-api-headers/include "$(dirname "$(command -v node || echo /usr/bin/node)")/../include/node"; do
  [[ ! -e $headers/node_api.h ]] || break
done
[[ -e $headers/node_api.h ]] || skip "node_api.h is missing (npm install node-api-headers)"
compiler=${CC:-cc}
command -v "$compiler" >/dev/null || skip "there is no C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev)"
echo '#include <stdio.h>
#include <jpeglib.h>' | "$compiler" -E - >/dev/null 2>&1 ||
  skip "jpeglib.h is missing (Debian: apt-get install libjpeg62-turbo-dev; Ubuntu: libjpeg-turbo8-dev)"

flags=(-O3 -shared -fPIC)
# Node's own symbols are found when it loads the addon.
[[ $(uname) != Darwin ]] || flags+=(-undefined dynamic_lookup)
built=$folder/jpeg.node.$$
trap 'rm -f "$built"' EXIT
if ! errors=$("$compiler" "${flags[@]}" -I"$headers" "$folder/jpeg.c" -o "$built" -ljpeg 2>&1); then
  echo "$errors" >&2
  skip "it does not compile"
fi
# In one step: a process may have the old one loaded.
mv "$built" "$folder/jpeg.node"
