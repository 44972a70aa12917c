//! What pg_dump would leave out: refused, or accepted by name and written down.

use std::process::Command;

use pgkeep::domain::finding::Severity;

use super::{DB, cluster, home_as, lacks, manifest, run};
use crate::harness::{
    postgres::{Cluster, KEEPER, SUPERUSER},
    process::must,
};

const MAPPINGS: &str =
    "CREATE FOREIGN DATA WRAPPER wire; CREATE SERVER far FOREIGN DATA WRAPPER wire;
    CREATE USER MAPPING FOR reader SERVER far OPTIONS (\"user\" 'x', password 'sesame');
    CREATE USER MAPPING FOR PUBLIC SERVER far;
    CREATE FOREIGN TABLE away (i int) SERVER far";
const SUBSCRIPTION: &str =
    "CREATE SUBSCRIPTION news CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)";

/// What the newest backup's archive says, by pg_restore.
fn archive(cluster: &Cluster, home: &crate::harness::pgkeep::Pgkeep) -> String {
    let manifest = manifest(home);
    let folder =
        home.repository_dir("disk").join(manifest.series.path()).join(manifest.id.as_str());
    let mut shell = Command::new("sh");
    let pg_restore = cluster.bin_dir().join("pg_restore");
    shell.arg("-c").arg("zstd -dcq \"$1\" | \"$2\" -f -").arg("sh");
    shell.arg(folder.join(&manifest.objects[0].name)).arg(pg_restore);
    must(&mut shell)
}

#[test]
fn options_of_user_mappings_are_refused_or_accepted_by_name() {
    let cluster = cluster();
    cluster.psql(DB, MAPPINGS);
    let failure = lacks(&home_as(&cluster, KEEPER, ""));
    // The one without options lacks nothing, and this role may look which that is.
    assert!(
        failure.what.contains("1 user mapping of database shop: reader on server far"),
        "{failure:#?}"
    );
    assert!(failure.hint.unwrap().contains("accept = [\"user-mapping-options\"]"));
    let failure = lacks(&home_as(&cluster, KEEPER, "accept = [\"subscriptions\"]"));
    assert!(failure.what.contains("user mapping"), "another name accepts nothing: {failure:#?}");

    let home = home_as(&cluster, KEEPER, "accept = [\"user-mapping-options\"]");
    let ran = run(&home, 0);
    let found = &ran.report.findings;
    assert!(found.iter().all(|it| it.severity == Severity::Info), "{found:#?}");
    assert!(found.iter().any(|it| it.check == "user-mapping-options"), "{found:#?}");
    let left_out = manifest(&home).left_out;
    let said: Vec<_> = left_out.iter().map(|it| format!("{}: {}", it.what, it.reason)).collect();
    assert_eq!(
        said,
        [
            "options of 1 user mapping: reader on server far: accepted in [job.nightly]",
            "rows of 1 foreign table: they belong to other servers",
        ]
    );
    assert!(!archive(&cluster, &home).contains("sesame"), "then it is not true");

    let whole = home_as(&cluster, SUPERUSER, "");
    run(&whole, 0);
    assert!(archive(&cluster, &whole).contains("sesame"), "a superuser sees them");
    assert_eq!(manifest(&whole).left_out.len(), 1);
}

#[test]
fn mappings_that_nobody_may_look_into_may_have_options() {
    let cluster = cluster();
    cluster.psql(DB, MAPPINGS);
    let failure = lacks(&home_as(&cluster, "reader", ""));
    // Its own it may see only with a right on the server.
    let both =
        "2 user mappings of database shop, should there be any: PUBLIC on server far, reader";
    assert!(failure.what.contains(both), "{failure:#?}");
    cluster.psql(
        DB,
        "GRANT USAGE ON FOREIGN SERVER far TO reader; DROP USER MAPPING FOR PUBLIC SERVER far",
    );
    run(&home_as(&cluster, "reader", ""), 0);
}

#[test]
fn subscriptions_are_refused_or_accepted_by_name() {
    let cluster = cluster();
    cluster.psql("postgres", "CREATE DATABASE other");
    cluster.psql(DB, SUBSCRIPTION);
    cluster.psql(
        "other",
        "CREATE SUBSCRIPTION olds CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)",
    );
    let failure = lacks(&home_as(&cluster, KEEPER, ""));
    assert!(
        failure.what.contains("1 subscription,") && failure.what.contains("news"),
        "{failure:#?}"
    );
    assert!(!failure.what.contains("olds"), "that is another database's: {failure:#?}");

    let home = home_as(&cluster, KEEPER, "accept = [\"subscriptions\"]");
    let ran = run(&home, 0);
    // pg_dump does not warn of what was asked of it.
    assert!(ran.report.findings.iter().all(|it| it.severity == Severity::Info), "{ran:#?}");
    let manifest = manifest(&home);
    assert_eq!(manifest.left_out[0].what, "1 subscription: news");
    assert!(manifest.tool.command.iter().any(|word| word == "--no-subscriptions"));
    assert!(!archive(&cluster, &home).contains("SUBSCRIPTION news"));

    let whole = home_as(&cluster, SUPERUSER, "");
    run(&whole, 0);
    assert!(archive(&cluster, &whole).contains("SUBSCRIPTION news"));
}
