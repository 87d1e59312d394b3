# Runs one throwaway Postgres and ends it when standard input ends: that is when the process that
# asked for it has dropped it, has ended, or was killed. Runs as the user that owns the folder.
#
# Arguments: folder with the binaries, folder for everything else, authentication of TCP
# connections. Commands, one per line on standard input: start, stop, crash. Each is answered
# with one line: ready, stopped or failed.
bin=$1 folder=$2 auth=$3
data=$folder/data log=$folder/log
pid=

create() {
    set -- -D "$data" -U postgres -E UTF8 --no-sync -A "$auth"
    if [ -e "$folder/password" ]; then set -- "$@" --pwfile "$folder/password"; fi
    if ! "$bin/initdb" "$@" --locale=C.UTF-8 >>"$log" 2>&1; then
        rm -rf "$data"
        "$bin/initdb" "$@" --locale=C >>"$log" 2>&1 || return 1
    fi
    cat "$folder/settings" >>"$data/postgresql.conf"
}

# Postgres writes "ready" as a line of its pid file when it accepts connections.
start() {
    rm -f "$data/postmaster.pid"
    "$bin/postgres" -D "$data" >>"$log" 2>&1 </dev/null &
    pid=$!
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 1200 ]; do
        if grep -q '^ready' "$data/postmaster.pid" 2>/dev/null; then
            echo ready
            return
        fi
        tries=$((tries + 1))
        sleep 0.05
    done
    echo failed
}

end() {
    if [ -n "$pid" ]; then
        kill -s "$1" "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        pid=
    fi
}

finish() {
    end QUIT
    cd / && rm -rf "$folder"
    exit 0
}

# PIPE: the asker may be gone by the time there is an answer for it.
trap finish HUP INT TERM PIPE
create || echo failed
while read -r command; do
    case $command in
    start) start ;;
    stop) end INT && echo stopped ;;
    crash) end QUIT && echo stopped ;;
    esac
done
finish
