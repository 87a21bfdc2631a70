#!/bin/bash
# Prints the path of a Rust compiler that can build WASI guests:
#
#   RUSTC=$(tools/guest-toolchain.sh) cargo build --target wasm32-wasip2
#
# A compiler that has the target (`rustup target add wasm32-wasip2`) wins and
# `rustc` is printed. Elsewhere this makes a private toolchain from Debian
# packages alone: downloaded with apt, unpacked under a cache folder named by
# version, never installed, rustup untouched. About 140 MB to download, 580 MB
# on disk, a minute of CPU time, once.
#
#   guest-toolchain.sh [FOLDER]       where to keep it; by default
#                                     ${XDG_CACHE_HOME:-~/.cache}/guest-toolchain
#   GUEST_TOOLCHAIN_FORCE=1           the private toolchain even where the
#                                     target is there (CI, so that a target
#                                     added by hand cannot hide a missing step)
#
# Needs no root: the package lists are fetched into a temporary folder, for
# those of the machine may be as old as its image.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/guest-toolchain
want=wasm32-wasip2

say() { echo "guest-toolchain: $*" >&2; }
fail() { say "$*"; exit 1; }

libdir=$(rustc --print target-libdir --target $want 2>/dev/null || true)
if [ -z "${GUEST_TOOLCHAIN_FORCE:-}" ] && ls "$libdir"/libstd-*.rlib >/dev/null 2>&1; then
  echo rustc; exit 0
fi

# One made before by this very script wins, without asking apt, which takes a
# second. A newer Debian version is picked up by removing the folder.
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/guest-toolchain}
recipe=$(cat "$0" "$here"/*.rs | sha256sum | cut -c1-8)
made() {
  for done in "$cache"/*-"$recipe"/done; do
    if [ -e "$done" ]; then echo "${done%/done}/rustc"; exit 0; fi
  done
}
made

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  fail "no $want target, and no apt to make one: run 'rustup target add $want'"
host=$(rustc -vV | sed -n 's/^host: //p')
multiarch=${host/-unknown-/-}

mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9
made # by whoever held the lock before

lists=$(mktemp -d); trap 'rm -rf "$lists"' EXIT
mkdir -p "$lists/lists/partial" "$lists/archives/partial"
chmod -R a+rX "$lists" # apt fetches as a user of its own
apt=(-q -o "Dir::State::Lists=$lists/lists" -o "Dir::Cache=$lists")
version() { apt-cache "${apt[@]}" policy "$1" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }
needs() { apt-cache "${apt[@]}" depends "$1" | awk -v p="$2" '$2 ~ p { print $2; exit }'; }
# A list of somebody else's that can't be had does not matter here.
apt-get "${apt[@]}" update >"$lists/log" 2>&1 || true
for package in rust-web-src rust-web-llvm; do
  [ "$(version $package)" ] ||
    { tail -5 "$lists/log" >&2; fail "apt has no package $package: is a Debian or Ubuntu mirror in its sources, and reachable?"; }
done
ver=$(version rust-web-src)
std=$(needs libstd-rust-web-dev '^libstd-rust-web-[0-9]')
llvm=$(needs "$std" '^libllvm')
lld=lld-${llvm#libllvm}

# Made beside its final name, which it must have from the start: rustc's
# wrapper and the remapped paths carry it. `done` says that it is whole.
root=$cache/${ver//[^A-Za-z0-9.+~-]/_}-$recipe
say "making a compiler for $want from $ver, once"

rm -rf "$root"; mkdir -p "$root/deb"
(cd "$root/deb" && apt-get "${apt[@]}" download rustc-web rust-web-src rust-web-llvm \
  libstd-rust-web-dev "$std" "$llvm" "$lld" wasi-libc) >"$root/download.log" 2>&1 ||
  { tail -5 "$root/download.log" >&2; fail "cannot download the packages"; }
for deb in "$root"/deb/*.deb; do
  case $deb in
    */rust-web-src_*) dpkg-deb --fsys-tarfile "$deb" |
      tar -x -C "$root" --wildcards './usr/src/rustc-*/library/*' './usr/lib/rustlib/src/rust' ;;
    *) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --exclude=./usr/share ;;
  esac
done
rm -r "$root/deb" "$root/download.log"

usr=$root/usr; lib=$usr/lib/rustlib; bin=$lib/$host/bin
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
  "'$usr/lib/$multiarch'" "'$usr/bin/rustc'" > "$root/rustc"
chmod +x "$root/rustc"
lld_bin=$(echo "$usr"/lib/llvm-*/bin/lld)
ln -sf "$lld_bin" "$bin/rust-lld"; ln -sf "$lld_bin" "$bin/wasm-ld"

# The standard library, laid out as rustup would have. Bitcode, or guests with
# `lto = true` fail to link; the public registry's crates rather than the
# package's vendored ones, from which Debian strips prebuilt objects.
mkdir "$root/std"; cd "$root/std"
printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2021"\n[lib]\npath = "lib.rs"\n[workspace]\n' > Cargo.toml
: > lib.rs
env -u CARGO_ENCODED_RUSTFLAGS -u RUSTC_WRAPPER RUSTC="$root/rustc" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$root/std/t" \
  RUSTFLAGS="-Cembed-bitcode=yes --remap-path-prefix=$root=/guest --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
  cargo build -q --release --target $want -Zbuild-std=std,panic_abort,test >&2
rm -f t/$want/release/deps/libempty-*; mkdir -p "$lib/$want/lib/self-contained"
cp t/$want/release/deps/*.rlib "$lib/$want/lib/"
cd /; rm -r "$root/std"

# The C start-up object and the few functions Debian's wasi-libc lacks.
self=$lib/$want/lib/self-contained
obj() { RUSTC_BOOTSTRAP=1 "$root/rustc" --edition 2021 --target $want --crate-type lib --emit obj \
  -C opt-level=s -C panic=abort -C codegen-units=1 "$here/$1.rs" -o "$2"; }
cp "$usr"/lib/wasm32-wasi/{libc.a,crt1-reactor.o} "$self/"
obj crt1-command "$self/crt1-command.o"
obj compat "$root/compat.o"; ar r "$self/libc.a" "$root/compat.o" 2>/dev/null

touch "$root/done"; echo "$root/rustc"
