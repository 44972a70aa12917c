# shellcheck shell=sh
# shellcheck disable=SC2154  # the variables of packaging/demo.sh, which sources this
# The demo's part on alerts: Prometheus with the shipped rules, but for their patience.

prometheus=
prometheus_url=

# A port that was free a moment ago; Prometheus cannot be told to find one.
start_prometheus() {
    mkdir -p "$dir/prometheus"
    # Nobody waits ten minutes in a demo: every `for` is cut to a second, the conditions are the shipped.
    sed 's/^\( *for:\) .*/\1 1s/' "$root/packaging/prometheus/pgkeep.rules.yml" \
        >"$dir/prometheus/rules.yml"
    cat >"$dir/prometheus/prometheus.yml" <<YAML
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: pgkeep
    static_configs: [{targets: ['$(cat "$run/pgkeep/http.addr")']}]
YAML
    for _ in 1 2 3 4 5; do
        port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
        prometheus_url=http://127.0.0.1:$port
        prometheus --config.file "$dir/prometheus/prometheus.yml" \
            --storage.tsdb.path "$dir/prometheus/data" --web.listen-address "127.0.0.1:$port" \
            >"$dir/prometheus.log" 2>&1 &
        prometheus=$!
        await 60 "Prometheus" prometheus_settled
        if kill -0 "$prometheus" 2>/dev/null; then
            return
        fi
    done
    fail "Prometheus does not start: see its log"
}

ask_prometheus() {
    curl -s --fail --max-time 10 --noproxy '*' "$prometheus_url/api/v1/$1"
}

# It is ready and has scraped, or it has ended.
prometheus_settled() {
    kill -0 "$prometheus" 2>/dev/null || return 0
    ask_prometheus 'query?query=pgkeep_build_info' 2>/dev/null |
        jq -e '.data.result | length > 0' >/dev/null 2>&1
}

# alert_state NAME: inactive, pending or firing.
alert_state() {
    ask_prometheus 'rules?type=alert' |
        jq -r --arg name "$1" '.data.groups[].rules[] | select(.name == $name) | .state'
}

alert_is() {
    [ "$(alert_state "$1")" = "$2" ]
}

# What fires, with what a person is told.
firing() {
    ask_prometheus alerts | jq -r '.data.alerts[] | select(.state == "firing") |
        "\(.labels.alertname) (\(.labels.severity)): \(.annotations.summary)"' | sort | indent
}

alerts() {
    start_prometheus
    await 60 "the alert on the gap" alert_is PgkeepWalArchiveGap firing
    firing
    say "the segment is put back, and the next check sees it:"
    mv "$dir/lost-segment" "$lost"
    show run wal
    await 60 "the end of the alert" alert_is PgkeepWalArchiveGap inactive
}

# How each rule stands.
alert_table() {
    ask_prometheus 'rules?type=alert' | jq -r '.data.groups[].rules[] |
        "\(.state)\t\(.labels.severity)\t\(.name)"' | sort -t "$(printf '\t')" -k 1,1 -k 3,3 |
        awk -F '\t' '{ printf "%-9s %-9s %s\n", $1, $2, $3 }' | indent
    alert_count=$(ask_prometheus 'rules?type=alert' | jq -r '[.data.groups[].rules[]] |
        "\(length) alert rules, \(map(select(.state == "firing")) | length) firing"')
    say "$alert_count"
    firing
}
