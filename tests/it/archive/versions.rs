//! What the reader finds in an archive is what `pg_restore -l` lists and the server counts, for each
//! version of PostgreSQL, whatever pg_dump is asked for.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    process::Command,
};

use pgkeep::codec::{
    proof::{DataEntry, FormatError, Proof as _, Structure},
    stream::Streamed,
};

use super::{ENCODE, archive, dump, stream};
use crate::harness::{
    compare::assert_same,
    postgres::{Cluster, SUPERUSER},
    process::must,
    versions::MAJORS,
};

/// Names that are hard on whoever splits lines or paths.
const HOSTILE_NAMES: [&str; 7] = [
    "a/b",
    "\"\"q\"\"",
    "a;'b",
    "..",
    "🐘",
    "new\nline",
    "sixty_three_bytes_sixty_three_bytes_sixty_three_bytes_sixty_thr",
];

/// Tables, by what pg_dump does with them.
const SCHEMA_SQL: &str = r#"
create schema s;
create table empty(a int);
create table no_columns();
insert into no_columns select from generate_series(1, 1234);
create table hostile(id serial primary key, t text, b bytea);
insert into hostile(t, b) select t, convert_to(t, 'UTF8') from unnest(array[
    '', ' ', E'\\.', E'\n\\.\n\n\n', E'\n', E'\r\n', E'\t', E'\\N', null, E'\\', E'\\\\n', ''';', '"";',
    E'\u0001\u001f\u007f', E'end\\', 'é🐘', E'COPY x FROM stdin;\n1\n\\.\n', repeat('x', 300000)
]) t;
insert into hostile(t, b) select chr(n), int4send(n) from generate_series(1, 2000) n;
create table one_text(t text);
insert into one_text select '' from generate_series(1, 777);
create type mood as enum ('so', 'la');
create domain short as text check (length(value) < 9);
create table typed(m mood, d short, i int generated always as identity,
    twice int generated always as (2) stored);
insert into typed(m, d) select 'la', n from generate_series(1, 11) n;
create unlogged table unlogged as select generate_series(1, 33) n;
create table parent(a int); create table child(b int) inherits (parent);
insert into parent values (1), (2); insert into child values (3, 4);
create materialized view s.mat as select * from hostile;
create materialized view s.not_filled as select 1 with no data;
create sequence s.alone start 77;
create table parted(a int, b text) partition by range (a);
create table parted_1 partition of parted for values from (0) to (100);
create table parted_2 partition of parted for values from (100) to (1000);
insert into parted select n, repeat(md5(n::text), 20) from generate_series(0, 999) n;
create table big as select n, md5(n::text) as a, n * 1.5 as b from generate_series(1, 30000) n;
create statistics s.pair (ndistinct, dependencies) on a, b from big;
select count(lo_from_bytea(0, decode(repeat(md5(n::text), n), 'hex'))) from generate_series(1, 400) n;
select lo_create(4000000000), lo_create(2147483648), lo_create(2147483647);
select lo_from_bytea(0, decode(repeat('00ff', 100000), 'hex'));
create role clerk; alter table big owner to clerk;
do $$ begin for n in 1..300 loop
    execute format('create table s.many_%s as select g from generate_series(1, %s) g', n, n % 7);
end loop; end $$;
"#;

fn fill(cluster: &Cluster) {
    use std::fmt::Write as _;
    let mut sql = SCHEMA_SQL.to_owned();
    for name in HOSTILE_NAMES {
        writeln!(sql, "create table s.\"{name}\" as select 1 as \"{name}\";").unwrap();
    }
    cluster.psql("postgres", "create database shop");
    cluster.psql("shop", &format!("{sql} analyze;"));
}

/// As `\xE9` what is no UTF-8.
fn readable(bytes: &[u8]) -> String {
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}"));
        chunk.valid().to_owned() + &invalid.collect::<String>()
    };
    bytes.utf8_chunks().map(chunk).collect()
}

/// Rows of every table by the server's count, without those of children: schema and name, rows.
fn counted(cluster: &Cluster) -> BTreeMap<(String, String), u64> {
    let hex = |text: &str| {
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        String::from_utf8((0..text.len()).step_by(2).map(byte).collect()).unwrap()
    };
    let tables = cluster.psql(
        "shop",
        "select format('select %L, %L, count(*) from only %I.%I;', encode(nspname::text::bytea, 'hex'),
             encode(convert_to(relname::text, 'UTF8'), 'hex'), nspname, relname)
         from pg_class c join pg_namespace n on n.oid = relnamespace
         where relkind = 'r' and nspname in ('public', 's')",
    );
    let row = |line: &str| {
        let fields: Vec<_> = line.split('|').collect();
        ((hex(fields[0]), hex(fields[1])), fields[2].parse().unwrap())
    };
    cluster.psql("shop", &tables).lines().map(row).collect()
}

/// `pg_restore -l`: the number of entries, and of each its id and what stands behind it.
fn listed(cluster: &Cluster, archive: &Path) -> (u64, BTreeMap<u32, String>) {
    let output = cluster.tool("pg_restore").arg("-l").arg(archive).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = readable(&output.stdout);
    let entries = text.lines().find_map(|line| line.strip_prefix(";     TOC Entries: ")).unwrap();
    let entry = |line: &str| {
        let (id, rest) = line.split_once("; ")?;
        // Then come two OIDs.
        Some((id.parse().ok()?, rest.splitn(3, ' ').nth(2)?.to_owned()))
    };
    (entries.parse().unwrap(), text.lines().filter_map(entry).collect())
}

/// The entry as `pg_restore -l` prints it (`PrintTOCSummary`; `sanitize_line` of line ends).
fn line(entry: &DataEntry) -> String {
    let schema = entry.schema.as_deref().unwrap_or("-");
    let text = format!("{} {schema} {} {}", entry.kind, entry.name, entry.owner);
    text.replace(['\n', '\r'], " ")
}

fn all(structure: &Structure) -> Vec<DataEntry> {
    structure.entries.iter().collect::<Result<_, _>>().unwrap()
}

fn slice(archive: &[u8], offset: u64, length: u64) -> &[u8] {
    let at = usize::try_from(offset).unwrap();
    &archive[at..at + usize::try_from(length).unwrap()]
}

/// Everything that the reader says of an archive against what others say of it.
fn check(cluster: &Cluster, path: &Path, structure: &Structure, archive: &[u8]) {
    let entries = all(structure);
    let (total, lines) = listed(cluster, path);
    let totals = &structure.totals;
    assert_eq!(totals.entries, total);
    let of = |kind: &str| lines.values().filter(|line| line.starts_with(kind)).count() as u64;
    assert_eq!(totals.sequences, of("SEQUENCE SET "));
    assert_eq!(totals.refreshes, of("MATERIALIZED VIEW DATA "));
    let extended = of("EXTENDED STATISTICS DATA ");
    assert_eq!(totals.statistics, of("STATISTICS DATA ") + extended);
    assert_eq!(extended > 0, totals.statistics > 0 && cluster.major() >= 19);
    assert_eq!(entries.len() as u64, of("TABLE DATA ") + of("BLOBS "));
    let mut end = structure.toc_end;
    for entry in &entries {
        assert_eq!(line(entry), lines[&entry.dump_id], "{}", entry.describe());
        assert_eq!(entry.offset, end, "{}", entry.describe());
        end += entry.length;
        let block = slice(archive, entry.offset, entry.length);
        assert_eq!(entry.digest, *blake3::hash(block).as_bytes(), "{}", entry.describe());
    }
    assert_eq!(end, archive.len() as u64);
    let toc = slice(archive, 0, structure.toc_end);
    assert_eq!(structure.toc_digest, Some(*blake3::hash(toc).as_bytes()));
}

/// Rows, or statements of one row each, are the server's count.
fn check_counts(cluster: &Cluster, structure: &Structure, options: &[&str]) {
    let counts = counted(cluster);
    let inserts = options.contains(&"--inserts");
    let via_root = options.contains(&"--load-via-partition-root");
    let totals = &structure.totals;
    assert_eq!(totals.tables, counts.len() as u64);
    assert_eq!(totals.tables_via_root, if via_root { 2 } else { 0 });
    let sum = counts.values().sum::<u64>();
    assert_eq!((totals.rows, totals.statements), if inserts { (0, sum) } else { (sum, 0) });
    let mut found = BTreeMap::new();
    for entry in all(structure).into_iter().filter(|entry| entry.kind == "TABLE DATA") {
        assert_eq!(entry.via_root, via_root && entry.name.starts_with("parted_"), "{}", entry.name);
        let (count, none) =
            if inserts { (entry.statements, entry.rows) } else { (entry.rows, entry.statements) };
        assert_eq!(none, None);
        found.insert((entry.schema.unwrap(), entry.name), count.unwrap());
    }
    assert_eq!(found, counts, "{options:?}");
    let number = |sql: &str| cluster.psql("shop", sql).trim().parse::<u64>().unwrap();
    let objects = number("select count(*) from pg_largeobject_metadata");
    let bytes = "select sum(octet_length(lo_get(oid))) from pg_largeobject_metadata";
    assert_eq!((totals.large_objects, totals.large_object_bytes), (objects, number(bytes)));
    assert_eq!(objects, 404);
}

fn check_with_zstd(stored: &Path, plain: &[u8]) {
    let zstd = |option: &str| {
        let output = Command::new("zstd").arg(option).arg(stored).output().unwrap();
        assert!(output.status.success(), "zstd {option}: {output:?}");
        output.stdout
    };
    zstd("-t");
    zstd("-l");
    assert!(zstd("-dc") == plain, "zstd -dc gives the archive");
}

const RUNS: [&[&str]; 5] = [
    &[],
    &["--inserts", "--load-via-partition-root"],
    &["--load-via-partition-root"],
    &["--inserts"],
    &["--data-only"],
];

/// The first `runs` of [`RUNS`], and what only the version can do.
async fn check_version(cluster: &Cluster, runs: usize) {
    fill(cluster);
    let mut runs = RUNS[..runs].to_vec();
    if cluster.major() >= 18 {
        runs.push(&["--statistics"]);
    }
    let folder = tempfile::tempdir().unwrap();
    for options in runs {
        let (stored, streamed) = stream(dump(cluster, "shop", options), archive()).await;
        let Streamed { plain, structure, .. } = streamed.unwrap();
        let archive = zstd::decode_all(&*stored).unwrap();
        assert_eq!(plain.bytes, archive.len() as u64);
        let volume = ENCODE.part_bytes * ENCODE.volume_parts as usize;
        assert!(!options.is_empty() || stored.len() > volume, "more than one volume");
        let (packed, unpacked) = (folder.path().join("a.zst"), folder.path().join("a.dump"));
        fs::write(&packed, &stored).unwrap();
        fs::write(&unpacked, &archive).unwrap();
        check_with_zstd(&packed, &archive);
        check(cluster, &unpacked, &structure, &archive);
        check_counts(cluster, &structure, options);
        let statistics = structure.totals.statistics > 0;
        assert_eq!(statistics, options.contains(&"--statistics"), "{options:?}");
        check_one_table_alone(cluster, &archive, &structure);
        if options.is_empty() {
            cluster.create_like("restored", "shop");
            let mut restore = cluster.tool("pg_restore");
            must(restore.args(["--exit-on-error", "-d", "restored"]).arg(&unpacked));
            assert_same(cluster, "shop", "restored");
        }
    }
    check_seekable(cluster, folder.path());
    check_another_encoding(cluster, folder.path()).await;
}

/// The recorded positions are right: with them written into the table of contents, pg_restore
/// finds one table in a file that holds nothing else.
fn check_one_table_alone(cluster: &Cluster, archive: &[u8], structure: &Structure) {
    let entries = all(structure);
    let size = |bytes: u64| usize::try_from(bytes).unwrap();
    let one = entries.iter().find(|it| it.name == "parted_2").unwrap();
    let mut toc = slice(archive, 0, structure.toc_end).to_vec();
    for entry in &entries {
        let field = &mut toc[size(entry.offset_field.start)..size(entry.offset_field.end)];
        assert_eq!(field.len(), 9);
        field[0] = 2;
        field[1..].copy_from_slice(&entry.offset.to_le_bytes());
    }
    let mut sparse = tempfile::NamedTempFile::new().unwrap();
    sparse.write_all(&toc).unwrap();
    sparse.seek(SeekFrom::Start(one.offset)).unwrap();
    sparse.write_all(slice(archive, one.offset, one.length)).unwrap();
    sparse.as_file().set_len(archive.len() as u64).unwrap();
    let mut restore = cluster.tool("pg_restore");
    restore.args(["--data-only", "-t", "parted_2", "-f", "-"]).arg(sparse.path());
    let text = must(&mut restore);
    let last = cluster.psql("shop", "select a || chr(9) || b from parted_2 where a = 999");
    assert!(one.rows.is_none() || text.contains(&last), "the last row is in it");
    let wanted = if one.rows.is_some() { "\t" } else { "INSERT INTO " };
    assert_eq!(text.lines().filter(|line| line.contains(wanted)).count(), 900);
}

fn prove(bytes: &[u8], size: usize) -> Result<Structure, FormatError> {
    let mut proof = archive();
    for piece in bytes.chunks(size) {
        proof.feed(piece, &mut Vec::new())?;
    }
    proof.finish()
}

/// An archive that was written to a file states where each block is, and that is where it is found.
fn check_seekable(cluster: &Cluster, folder: &Path) {
    let path = folder.join("seekable.dump");
    must(dump(cluster, "shop", &[]).arg("-f").arg(&path));
    let mut bytes = Vec::new();
    fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    let whole = prove(&bytes, usize::MAX).unwrap();
    check(cluster, &path, &whole, &bytes);
    let pieces = prove(&bytes, 977).unwrap();
    assert_eq!((all(&pieces), &pieces.totals), (all(&whole), &whole.totals));
    for entry in all(&whole) {
        let field = entry.offset_field.end - entry.offset_field.start;
        let field = slice(&bytes, entry.offset_field.start, field);
        assert_eq!(field, [&[2][..], &entry.offset.to_le_bytes()].concat(), "{}", entry.describe());
    }
    // One that states another place is not believed.
    let last = all(&whole).pop().unwrap();
    bytes[usize::try_from(last.offset_field.start).unwrap() + 1] ^= 1;
    let error = prove(&bytes, 4096).unwrap_err().to_string();
    assert!(error.contains("was to begin at byte") && error.contains(&last.describe()), "{error}");
}

async fn check_another_encoding(cluster: &Cluster, folder: &Path) {
    cluster.psql(
        "postgres",
        "create database latin template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'",
    );
    let sql = "set client_encoding = 'UTF8'; create table \"café\" (\"ü\" text); \
               insert into \"café\" values ('ÿ'), (E'\\n')";
    cluster.psql("latin", sql);
    let (stored, streamed) = stream(dump(cluster, "latin", &[]), archive()).await;
    let (structure, archive) = (streamed.unwrap().structure, zstd::decode_all(&*stored).unwrap());
    let path = folder.join("latin.dump");
    fs::write(&path, &archive).unwrap();
    check(cluster, &path, &structure, &archive);
    let found: Vec<_> =
        all(&structure).into_iter().map(|it| (it.name, it.owner, it.rows)).collect();
    assert_eq!(found, [("caf\\xE9".to_owned(), SUPERUSER.to_owned(), Some(2))]);
}

#[tokio::test]
async fn real_archives_hold_what_the_server_and_pg_restore_count() {
    check_version(&Cluster::builder().empty().start(), 3).await;
}

#[tokio::test]
async fn archives_of_other_versions_hold_what_they_count() {
    for major in MAJORS {
        let Some(builder) = Cluster::of(major) else { continue };
        let cluster = builder.empty().start();
        assert_eq!(cluster.major(), major);
        check_version(&cluster, RUNS.len()).await;
        eprintln!("PostgreSQL {major}: as it should be");
    }
}
