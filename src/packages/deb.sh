#!/usr/bin/env bash
# Makes a Debian package of what `make install DESTDIR=…` has put into a folder; `make deb` calls it.
#
#   deb.sh <folder> <where the package goes>
#
# PG_CONFIG says for which PostgreSQL: one of Debian's packages, or of apt.postgresql.org's, which have the same folders.
set -euo pipefail
cd "$(dirname "$0")/../.."

tree=$1 to=$2
major=$("$PG_CONFIG" --version | sed 's/^PostgreSQL //; s/[^0-9].*//')
[ "$("$PG_CONFIG" --bindir)" = "/usr/lib/postgresql/$major/bin" ] \
    || { echo "make deb: PG_CONFIG is $PG_CONFIG, of no Debian package; try PG=15" >&2; exit 1; }
version=$(sed -n "s/^default_version = '\(.*\)'$/\1/p" pg_shared_lru.control)
name=postgresql-$major-shared-lru
glibc=$(dpkg-query -W -f '${Version}' libc6 | sed 's/-.*//')

library=$tree/usr/lib/postgresql/$major/lib/pg_shared_lru.so
strip --strip-debug "$library"
docs=$tree/usr/share/doc/$name
install -d "$docs" "$tree/DEBIAN"
install -m 644 LICENSE "$docs/copyright"
install -m 644 README.md docs/*.md "$docs"
cat >"$tree/DEBIAN/control" <<END
Package: $name
Version: $version-1
Architecture: $(dpkg --print-architecture)
Maintainer: The pg_shared_lru authors <pg_shared_lru@localhost>
Section: database
Priority: optional
Installed-Size: $(du -sk --exclude DEBIAN "$tree" | cut -f1)
Depends: postgresql-$major, libc6 (>= $glibc), libgcc-s1
Description: LRU caches that all backends of PostgreSQL $major share
 An extension with caches in shared memory: they outlive connections, evict what
 was not used for longest, and give every byte back. Views show what is in them.
END
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
mkdir -p "$to"
dpkg-deb --root-owner-group --build "$tree" "$to/${name}_$version-1_$(dpkg --print-architecture).deb"
