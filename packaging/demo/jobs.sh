# shellcheck shell=sh
# shellcheck disable=SC2154  # the variables of packaging/demo.sh, which sources this
# The demo's part on the kinds of job beside dumps.

# The keys of the vault, to which backups are copied encrypted. The secret one is for this demo to
# restore with; a host that makes backups has no business with it.
make_keys() {
    age-keygen -o "$dir/restored/vault.key" 2>/dev/null
    recipient=$(age-keygen -y "$dir/restored/vault.key")
}

# The other jobs, and where they put things.
more_config() {
    cat >>"$config" <<TOML

[repository.vault]
kind                   = "s3"
endpoint               = "$s3_url"
region                 = "us-east-1"
path_style             = true
bucket                 = "$bucket"
prefix                 = "vault"
access_key_id          = "$access_key"
secret_access_key_file = "$dir/etc/s3-secret-key"
encrypt_to             = ["$recipient"]

[retention.short]
keep_last = 2

[job.upload]
kind     = "copy"
from     = "local"
to       = ["vault"]
schedule = "0 4 * * *"

[job.tidy]
kind         = "prune"
repositories = ["local", "offsite"]
retention    = "short"
schedule     = "0 5 * * *"

[job.vacuum]
kind            = "vacuum"
server          = "demo"
databases       = ["$app"]
min_dead_tuples = 1000
schedule        = "0 1 * * *"

[job.rebuild]
kind      = "reindex"
server    = "demo"
databases = ["$app"]
invalid   = true
schedule  = "0 6 * * 0"

[job.wal]
kind             = "wal-check"
server           = "demo"
archive          = "$dir/wal-archive"
archive_interval = "0s"
schedule         = "*/5 * * * *"

[notify.pager]
kind    = "command"
command = ["$dir/etc/page"]
on      = ["failure", "recovery", "findings"]
TOML
    cat >"$dir/etc/page" <<PAGE
#!/bin/sh
exec jq -c . >>"$dir/paged"
PAGE
    chmod 700 "$dir/etc/page"
}

copies() {
    show run upload
    say "a second time, there is nothing left to bring:"
    show run upload
    vault_id=$(newest vault "$app")
    unpack "$dir/s3/$bucket/vault" "$vault_id" "$dir/restored/vault.dump"
    restore "$dir/restored/vault.dump" restored_vault
    same_data "$app" restored_vault
}

# backups REPOSITORY SUBJECT: how many are listed.
backups() {
    facts list | jq --arg repository "$1" --arg subject "$2" \
        '[.[] | select(.repository == $repository and .subject == $subject and .complete)] | length'
}

retention() {
    say "two more dumps, so that there is something to remove"
    facts run nightly >/dev/null
    facts run nightly >/dev/null
    [ "$(backups local "$app")" -eq 3 ] || fail "three dumps are not three backups"
    show run tidy --dry-run
    [ "$(backups local "$app")" -eq 3 ] || fail "a dry run removed something"
    show run tidy
    [ "$(backups local "$app")" -eq 2 ] || fail "the policy keeps two of each series"
    [ "$(backups vault "$app")" -eq 1 ] || fail "the vault is none of the job's repositories"
}

maintenance() {
    sql "$app" <<'SQL'
CREATE TABLE shop.ledger AS SELECT n AS id, n % 100 AS account FROM generate_series(1, 20000) AS n;
ALTER TABLE shop.ledger SET (autovacuum_enabled = off);
UPDATE shop.ledger SET account = account + 1 WHERE id <= 10000;
SQL
    show run vacuum --dry-run
    show run vacuum
    [ "$(echo "SELECT vacuum_count FROM pg_stat_all_tables
        WHERE relid = 'shop.ledger'::regclass" | sql "$app")" -eq 1 ] || fail "it was not vacuumed"

    say "an index that could not be built is left behind invalid, and costs every write:"
    echo 'CREATE UNIQUE INDEX CONCURRENTLY ledger_account ON shop.ledger (account)' |
        sql "$app" 2>&1 | indent || true
    echo 'DELETE FROM shop.ledger WHERE id > 50' | sql "$app"
    show run rebuild
    [ "$(echo 'SELECT count(*) FROM pg_index WHERE NOT indisvalid' | sql "$app")" -eq 0 ] ||
        fail "an index is still invalid"
}

# A base backup and some segments, so that there is an archive to speak of.
fill_archive() {
    as_postgres "$bin/pg_basebackup" -h "$run/socket" -U postgres -D "$dir/postgres/base" -X none \
        --checkpoint fast 2>/dev/null
    for _ in 1 2 3 4; do
        echo "SELECT pg_logical_emit_message(false, 'demo', 'x'), pg_switch_wal()" |
            sql postgres >/dev/null
    done
    await 60 "an empty queue of the archiver" nothing_waits
    # The last but one: the archive goes on after it.
    lost=$(find "$dir/wal-archive" -type f -name '????????????????????????' | sort | tail -n 2 |
        head -n 1)
}

nothing_waits() {
    [ "$(echo "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name ~ 'ready$'" |
        sql postgres)" -eq 0 ]
}

wal_archive() {
    fill_archive
    show run wal
    say "somebody removes ${lost##*/} from the archive:"
    mv "$lost" "$dir/lost-segment"
    code=0
    show run wal --fail-on critical || code=$?
    [ "$code" -eq 7 ] || fail "a gap in the archive ended with exit code $code, not 7"
    say "exit code 7; and who is to be told was told:"
    await 30 "the pager" paged
    jq -c '{event, job, findings: [.findings[].what]}' "$dir/paged" | tail -n 1 | indent
}

paged() {
    [ -s "$dir/paged" ]
}
