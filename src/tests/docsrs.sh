#!/bin/sh
# Stands before rustc, as cargo's RUSTC_WRAPPER: has the bindings that pgrx brings for docs.rs compiled, in place of those
# that it makes of a server's headers.
rustc=$1
shift
case " $* " in *" --crate-name pgrx_pg_sys "*) set -- "$@" --cfg docsrs ;; esac
exec "$rustc" "$@"
