# For regress.sh and isolation.sh, which read it: runs tests by one of PostgreSQL's own programs, in a server that it makes
# and removes. PG_CONFIG says which PostgreSQL.

# in_server <program> <folder of the tests> <settings of the server> <tests…>   prints how many passed; fails if one did not
in_server() (
    program=$1 tests_folder=$2 settings=$3
    shift 3
    # Not where TMPDIR says: a socket's path has 107 bytes at most.
    folder=$(mktemp -d /tmp/pg_shared_lru.XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    cp -r "$tests_folder/." "$folder"
    echo "$settings" >"$folder/server.conf"
    as=()
    if [ "$(id -u)" -eq 0 ]; then
        # PostgreSQL refuses to run as root.
        chown -R postgres "$folder"
        as=(runuser -u postgres --)
    fi
    # With it an error that passed through Rust has a backtrace.
    unset RUST_BACKTRACE
    cd "$folder"
    "${as[@]}" "$program" --bindir="$("$PG_CONFIG" --bindir)" --inputdir="$folder" --outputdir="$folder" \
        --temp-instance="$folder/server" --temp-config="$folder/server.conf" --encoding=UTF8 --no-locale "$@" \
        | tee "$folder/report"
    status=${PIPESTATUS[0]}
    failed=$(grep -cE '^not ok|FAILED$|FAILED ' "$folder/report")
    [ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ ! -s regression.diffs ] || cat regression.diffs
    echo "test result: $(basename "$program"). $(($# - failed)) passed; $failed failed"
    [ "$failed" -eq 0 ]
)
