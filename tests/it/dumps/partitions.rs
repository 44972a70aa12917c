//! A table and its children go together: partitions at any depth, in another schema, of any name, and what
//! inherits from it.

use pgkeep::domain::failure::Class;

use super::{DISK, ONCE, disk, listed, run_job, selection::restore};
use crate::harness::{pgkeep::Pgkeep, postgres::Cluster, versions::MAJORS};

/// Rows 1 to 90: of a plain partition, of one below another in another schema, and of the default. One
/// partition is another server's.
const SQL: &str = r#"
CREATE SCHEMA "arch.ive";
CREATE TABLE public.ev (n int) PARTITION BY RANGE (n);
CREATE TABLE public.ev_low PARTITION OF public.ev FOR VALUES FROM (0) TO (31);
CREATE TABLE "arch.ive"."ev ""*\ é?" PARTITION OF public.ev FOR VALUES FROM (31) TO (61) PARTITION BY LIST (n);
CREATE TABLE "arch.ive"."it's" PARTITION OF "arch.ive"."ev ""*\ é?" DEFAULT;
CREATE TABLE public.ev_rest PARTITION OF public.ev DEFAULT;
INSERT INTO public.ev SELECT generate_series(1, 90);
CREATE FOREIGN DATA WRAPPER wire; CREATE SERVER far FOREIGN DATA WRAPPER wire;
CREATE FOREIGN TABLE public.ev_far PARTITION OF public.ev FOR VALUES FROM (1000) TO (2000) SERVER far;
CREATE TABLE public.parent (n int); CREATE TABLE public.child (m int) INHERITS (public.parent);
INSERT INTO public.parent VALUES (1); INSERT INTO public.child VALUES (2, 2), (3, 3);
CREATE TABLE public.other AS SELECT generate_series(1, 5) AS n;
"#;
/// What a selection of tables does not bring.
const BEFORE: &str = "CREATE SCHEMA \"arch.ive\"; CREATE FOREIGN DATA WRAPPER wire; CREATE SERVER far FOREIGN DATA WRAPPER wire";
/// The rows of each table that is there, but of those of another server.
const COUNTS: &str = "SELECT string_agg(relname || '=' || (xpath('/row/c/text()', query_to_xml(format( \
    'SELECT count(*) AS c FROM ONLY %I.%I', nspname, relname), false, true, '')))[1]::text, ' ' ORDER BY relname COLLATE \"C\") \
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
    WHERE relkind = 'r' AND nspname IN ('public', 'arch.ive')";

fn with_partitions(cluster: &Cluster) {
    cluster.psql("postgres", "CREATE DATABASE parts");
    cluster.psql("parts", SQL);
}

/// Dumps by such lines, restores, and says which tables are there with how many rows.
fn brought(cluster: &Cluster, lines: &str, before: &str) -> String {
    let home = Pgkeep::new().server("main", cluster).local(DISK);
    let home = home.dump("some", "main", &["parts"], &[DISK], &format!("{ONCE}\n{lines}"));
    run_job(&home, "some", 0);
    let copies = listed(&home, &disk(&home));
    restore(cluster, &copies[0], before);
    let counts = cluster.psql("restored", COUNTS);
    cluster.psql("postgres", "DROP DATABASE restored");
    if lines.starts_with("tables = [\"public.ev\"") {
        let left_out = &copies[0].manifest.left_out;
        assert!(left_out.iter().any(|it| it.what == "rows of 1 foreign table"), "{left_out:?}");
    }
    counts
}

fn parent_and_children_go_together(cluster: &Cluster) {
    with_partitions(cluster);
    for (lines, before, expected) in [
        ("tables = [\"public.ev\"]", BEFORE, "ev_low=30 ev_rest=30 it's=30"),
        (
            "tables = [\"public.ev\", \"*.paren?\"]",
            BEFORE,
            "child=2 ev_low=30 ev_rest=30 it's=30 parent=1",
        ),
        (
            "tables = [\"public.ev\"]\nexclude_tables = ['arch\\.ive.ev*']",
            BEFORE,
            "ev_low=30 ev_rest=30",
        ),
        ("exclude_tables = [\"public.ev\", \"public.parent\"]", "SELECT", "other=5"),
        (
            "exclude_table_data = [\"public.ev\", \"public.parent\"]",
            "SELECT",
            "child=0 ev_low=0 ev_rest=0 it's=0 other=5 parent=0",
        ),
    ] {
        assert_eq!(brought(cluster, lines, before), expected, "{lines}");
    }
}

/// With the programs of the distribution, which know nothing of children before version 16.
#[test]
fn a_table_goes_with_its_partitions_and_heirs() {
    parent_and_children_go_together(&Cluster::start());
}

#[test]
fn a_table_goes_with_its_partitions_by_newer_programs_too() {
    for major in MAJORS {
        let Some(builder) = Cluster::of(major) else { continue };
        parent_and_children_go_together(&builder.start());
    }
}

#[test]
fn schemas_whose_tables_have_partitions_elsewhere_say_so() {
    let cluster = Cluster::start();
    with_partitions(&cluster);
    let lines = |more: &str| format!("{ONCE}\nschemas = [\"public\"]\n{more}");
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .dump("half", "main", &["parts"], &[DISK], &lines(""))
        .dump("meant", "main", &["parts"], &[DISK], &lines("exclude_schemas = ['arch?ive']"));
    let ran = run_job(&home, "half", 1);
    let failure = ran.failed("parts", DISK, Class::Configuration);
    assert!(
        failure.what.contains("`schemas` selects public.ev, and its partition arch.ive.it's"),
        "{failure:?}"
    );
    assert!(listed(&home, &disk(&home)).is_empty());
    run_job(&home, "meant", 0);
    // What inherits without being a partition is a table of its own.
    cluster.psql("parts", "ALTER TABLE public.ev DETACH PARTITION \"arch.ive\".\"ev \"\"*\\ é?\"");
    cluster.psql("parts", "CREATE TABLE \"arch.ive\".heir () INHERITS (public.parent)");
    run_job(&home, "half", 0);
}

/// Of a partition that the role may not read, pg_dump is not asked.
#[test]
fn a_partition_of_a_selected_table_has_to_be_readable() {
    let cluster = Cluster::start();
    with_partitions(&cluster);
    cluster.psql("postgres", "CREATE ROLE reader LOGIN");
    cluster.psql(
        "parts",
        "GRANT SELECT ON public.ev, public.ev_low, public.ev_rest, public.ev_far TO reader",
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump(
        "some",
        "main",
        &["parts"],
        &[DISK],
        &format!("{ONCE}\ntables = [\"public.ev\"]"),
    );
    let text = home.config().replace("user = \"pgkeep\"", "user = \"reader\"");
    home.rewrite(&text);
    let ran = run_job(&home, "some", 1);
    let failure = ran.failed("parts", DISK, Class::Privilege);
    assert!(failure.what.contains("it's") && !failure.what.contains("other"), "{failure:?}");
}
