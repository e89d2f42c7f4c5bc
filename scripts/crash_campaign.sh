#!/usr/bin/env bash
# make crash-campaign: for HOURS, in turns: kill -9 on the shipped library, long random histories with a crash at every
# event, and faults with other seeds. Stops at the first that finds something; each prints what replays it.
set -eu
cd "$(dirname "$0")/.."
. scripts/steps.sh
writer=$1
# Not a part of the hours.
cargo test --quiet --release --features sim --test crash --test faults --no-run
end=$(awk -v now="$(date +%s)" -v hours="${HOURS:-1}" 'BEGIN { printf "%d", now + hours * 3600 }')
seed=$((${SEED:-$(date +%s)}))

# Each round is an hour at most, so that a campaign of hours goes through all of them several times.
share() {
    local left=$((end - $(date +%s)))
    [ "$left" -lt 3600 ] || left=3600
    echo $((left * $1 / 100 > 0 ? left * $1 / 100 : 1))
}

histories() {
    CRASH_SECONDS=$1 SEED=$2 cargo test --release --features sim --test crash -- --ignored --nocapture \
        a_campaign_finds_nothing
}

faults() { FAULT_SECONDS=$1 FAULT_SEED=$2 cargo test --release --features sim --test faults -- --ignored --nocapture; }

while [ "$(date +%s)" -lt "$end" ]; do
    step "kill -9, seed $seed" python3 tests/outside/kill_loop.py "$writer" --seconds "$(share 40)" --seed "$seed"
    step "random histories, seed $seed" histories "$(share 60)" "$seed"
    step "random faults, seed $seed" faults "$(share 90)" "$seed"
    seed=$((seed + 1000000))
done
steps_summary
