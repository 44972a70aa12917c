//! Archives in a bucket.

use std::{fs, path::Path};

use pgkeep::domain::{
    failure::Class,
    finding::Severity,
    report::{Outcome, Verdict},
};

use super::{Ran, archiving, base_backup, check, fill, job};
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::Cluster,
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

fn server() -> (tokio::runtime::Runtime, S3Server) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(S3Server::start());
    (runtime, server)
}

fn home(cluster: &Cluster, server: &S3Server, lines: &str) -> Pgkeep {
    let keys = (ACCESS_KEY, SECRET_KEY);
    let limits = "prefix = \"dumps\"\nrequest_timeout = \"1s\"\ngive_up_after = \"1s\"";
    let home = Pgkeep::new().server("main", cluster);
    let home = home.s3_with("offsite", &server.url(), BUCKET, keys, limits);
    job(
        home,
        &format!(
            "archive_repository = \"offsite\"\narchive_prefix = \"wal/main\"\n\
             archive_interval = \"0s\"\narchive_deadline = \"0s\"\n{lines}"
        ),
    )
}

/// Lays the archive out as pgBackRest does.
fn upload(archive: &Path, server: &S3Server) {
    for entry in fs::read_dir(archive).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let sum = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d";
        let key = match name.len() {
            24 => format!("wal/main/15-1/{}/{name}-{sum}", &name[..16]),
            _ if name.ends_with(".history") => format!("wal/main/15-1/{name}"),
            _ => format!("wal/main/15-1/{}/{name}", &name[..16]),
        };
        let object = server.object_path(&key);
        fs::create_dir_all(object.parent().unwrap()).unwrap();
        if !object.exists() {
            fs::copy(&path, &object).unwrap();
        }
    }
}

fn object(server: &S3Server, name: &str) -> std::path::PathBuf {
    let folder = server.object_path(&format!("wal/main/15-1/{}", &name[..16]));
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let starts =
        |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(name);
    entries.filter(|path| path.to_str().unwrap().len() > 24).find(starts).unwrap()
}

#[test]
fn a_bucket_is_listed_once_and_then_from_where_it_was_whole() {
    let (cluster, archive) = archiving();
    let (_runtime, server) = server();
    base_backup(&cluster, &cluster.socket_dir().join("base"), &[]);
    let names = fill(&cluster, 6);
    upload(&archive, &server);
    fs::write(server.object_path("wal/main/15-1/archive.info"), "not WAL").unwrap();
    let home = home(&cluster, &server, "end_to_end = false");
    let ran = check(&home);
    ran.assert_quiet();
    assert_eq!(ran.missing("recent"), Some(0.0));
    let segments = ran.target("archive").figures.counts["segments"];
    assert_eq!(ran.target("archive").figures.counts["foreign_files"], 1);

    let more = fill(&cluster, 3);
    upload(&archive, &server);
    fs::remove_file(object(&server, &names[1])).unwrap();
    fs::remove_file(object(&server, &more[1])).unwrap();
    let ran = check(&home);
    let gap = ran.one("wal-archive-gap", Severity::Critical);
    assert!(gap.what.contains(&more[1]) && !gap.what.contains(&names[1]), "{gap:#?}");
    let figures = &ran.target("archive").figures.counts;
    assert_eq!((figures["segments"], figures["foreign_files"]), (segments + 2, 1));
    // It arrives late after all. As long as something is missing, everything is listed: what was
    // removed from the beginning shows, and is mended as well.
    upload_one(&archive, &server, &more[1]);
    let gap = check(&home).one("wal-archive-gap", Severity::Critical).what.clone();
    assert!(gap.contains(&names[1]) && !gap.contains(&more[1]), "{gap}");
    upload_one(&archive, &server, &names[1]);
    check(&home).assert_quiet();
}

fn upload_one(archive: &Path, server: &S3Server, name: &str) {
    let key = format!("wal/main/15-1/{}/{name}.zst", &name[..16]);
    fs::copy(archive.join(name), server.object_path(&key)).unwrap();
}

#[test]
fn a_bucket_that_is_away_fails_and_one_that_refuses_is_a_finding() {
    let (cluster, archive) = archiving();
    fill(&cluster, 2);
    let (runtime, server) = server();
    upload(&archive, &server);
    let home_of = home(&cluster, &server, "");
    check(&home_of).assert_quiet();
    let refused = home(&cluster, &server, "archive_bucket = \"none\"");
    let ran = check(&refused);
    ran.one("wal-archive-unreadable", Severity::Critical);
    assert_eq!(ran.missing("recent"), None);
    drop((server, runtime));
    let ran = Ran::of(home_of.run(&["run", "wal", "--json"]), 4);
    assert_eq!(ran.verdict, Verdict::Partial);
    let Outcome::Failed(failure) = &ran.target("archive").outcome else { panic!("{ran:#?}") };
    assert_eq!(failure.class, Class::RepositoryUnavailable);
    assert_eq!(ran.missing("recent"), Some(0.0), "the last listing still holds");
}

/// A restore was tried and archives where the server does: names of timeline 2 come after all of
/// timeline 1. The server's own timeline is looked at from where it was whole, all the same.
#[test]
fn a_bucket_with_a_later_timeline_shows_what_the_server_adds_to_its_own() {
    let (cluster, archive) = archiving();
    let (_runtime, server) = server();
    base_backup(&cluster, &cluster.socket_dir().join("base"), &[]);
    let names = fill(&cluster, 3);
    let left = cluster.psql("postgres", "SELECT pg_current_wal_lsn()");
    for name in fill(&cluster, 2) {
        let other = name.replacen("00000001", "00000002", 1);
        fs::copy(archive.join(name), archive.join(other)).unwrap();
    }
    fs::write(archive.join("00000002.history"), format!("1\t{left}\tx\n")).unwrap();
    upload(&archive, &server);
    let home = home(&cluster, &server, "end_to_end = false");
    let ran = check(&home);
    ran.one("wal-archive-timeline", Severity::Warning);
    assert_eq!(ran.missing("recent"), Some(0.0));
    let segments = ran.target("archive").figures.counts["segments"];

    fill(&cluster, 2);
    upload(&archive, &server);
    fs::remove_file(object(&server, &names[1])).unwrap();
    let ran = check(&home);
    assert!(ran.found("wal-archive-lost").is_empty(), "{:#?}", ran.report.findings);
    assert_eq!(ran.missing("recent"), Some(0.0), "the beginning is looked at once a day");
    assert_eq!(ran.target("archive").figures.counts["segments"], segments + 2);
}
