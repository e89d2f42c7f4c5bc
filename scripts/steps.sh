# Sourced by the other scripts: named steps with their duration, and what was not run with its reason.
# Nothing is passed over in silence: a step either runs or prints `not run: NAME because REASON`.

steps_started=$SECONDS
steps_lines=()

# step NAME COMMAND...: runs the command; its failure ends the script. Not to be called in a condition (`step ... &&`):
# bash would then ignore every failure inside a function but the last one.
step() {
    local name=$1 started=$SECONDS took status
    shift
    printf '\n== %s\n' "$name"
    set +e
    (
        set -e
        "$@"
    )
    status=$?
    set -e
    took=$((SECONDS - started))
    if [ "$status" -ne 0 ]; then
        steps_lines+=("FAILED   $name, status $status after $took s")
        steps_summary
        exit 1
    fi
    printf '== %s: ok, %s s\n' "$name" "$took"
    steps_lines+=("ok       $name, $took s")
}

# not_run NAME REASON
not_run() {
    printf '\nnot run: %s because %s\n' "$1" "$2"
    steps_lines+=("not run  $1 because $2")
}

steps_summary() {
    printf '\n=== summary, %s s\n' "$((SECONDS - steps_started))"
    printf '  %s\n' "${steps_lines[@]}"
}
